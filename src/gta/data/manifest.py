"""Lists of training images: written so that two people can check they trained on the same ones, and read.

A manifest has one line per image, `path<TAB>class<TAB>SHA-256 of the file`, below comment lines that say what it is; a
path that begins with # is written `./#…`. Its number and digest are compared when it is read.
Read are such manifests, lists of "path class" lines as Transfer-Learning-Library publishes them
(github.com/thuml/Transfer-Learning-Library, `image_list/train_15.txt`), and lists of paths alone as
Batch-Spectral-Shrinkage does (github.com/thuml/Batch-Spectral-Shrinkage, `ft-datalist/cub200_15_train.txt`). Both keep
the images under folders of their own, so an image is found by the end of its path.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from gta.data.images import SUFFIXES
from gta.data.sample import Sample
from gta.data.subsets import digest
from gta.errors import GtaError
from gta.files import reading

_LINE = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, sorted(SUFFIXES)))}))(?:\s+(\S.*))?", re.IGNORECASE)


def manifest_text(title: str, classes: Sequence[str], samples: Sequence[Sample]) -> str:
    """A manifest of these samples.

    Args:
        title: what they are, for the first line.
        classes: names in label order.
        samples: the images, read.

    Raises:
        GtaError: a path or class with a tab or line break in it.
    """
    names = [f"./{s.name}" if s.name.startswith("#") else s.name for s in samples]
    lines = [f"{name}\t{classes[s.label]}\t{s.sha256}" for name, s in zip(names, samples, strict=True)]
    for s, line in zip(samples, lines, strict=True):
        if line.count("\t") != 2 or len(line.splitlines()) != 1:
            raise GtaError(f"{s.name!r} has a tab or line break in its path or class: a manifest cannot hold it.")
    head = [f"# {title}", f"# {len(samples)} images of {len(classes)} classes, digest {digest(samples)}"]
    return "\n".join([*head, *lines]) + "\n"


def listed(path: Path, classes: Sequence[str], samples: Sequence[Sample]) -> set[str]:
    """Names of the samples that a list file names.

    Args:
        path: the list.
        classes: names in label order.
        samples: the training images to choose from, read.

    Raises:
        GtaError: no such file, an empty list, images that are not there or that several files could be, images named
            twice, classes that are not the data's, a class without an image, or files other than the manifest's.
    """
    with reading(path, "a list of images"):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    index = defaultdict(list)
    for s in samples:
        index[PurePosixPath(s.name).name].append(s)
    rows = [_row(line) for line in text.split("\n") if line.strip() and not _is_comment(line, index)]
    if not rows:
        raise GtaError(f"--subset-list {path} names no image: write one per line, as a path or as 'path class'.")
    _check_whole(path, text, rows)
    chosen: dict[str, Sample] = {}
    meaning: dict[str, int] = {}
    problems: list[str] = []
    for name, word, sha in rows:
        found = _find(name, index)
        if len(found) != 1:
            problems.append(f"{name!r}: " + ("several images end so" if found else "not in the training images"))
            continue
        sample = found[0]
        if sample.name in chosen:
            problems.append(f"{name!r}: named twice")
        elif word is not None and meaning.setdefault(word, sample.label) != sample.label:
            here, elsewhere = classes[sample.label], classes[meaning[word]]
            problems.append(f"{name!r}: class {word!r} is {elsewhere!r} elsewhere, here {here!r}")
        elif sha is not None and sha != sample.sha256:
            problems.append(f"{name!r}: another file (SHA-256 {sample.sha256[:12]}…, the list has {sha[:12]}…)")
        chosen[sample.name] = sample
    if problems:
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        shown = "\n".join(f"  {p}" for p in problems[:8])
        raise GtaError(
            f"{len(problems)} of the {len(rows)} lines of --subset-list {path} do not fit the data:\n{shown}{more}"
        )
    without = sorted({s.label for s in samples} - {s.label for s in chosen.values()})
    if without:
        raise GtaError(
            f"--subset-list {path} has no image of {len(without)} classes, {classes[without[0]]!r} among them."
        )
    return set(chosen)


_HEAD = re.compile(r"^# (\d+) images of \d+ classes, digest ([0-9a-f]{64})\s*$", re.MULTILINE)


def _check_whole(path: Path, text: str, rows: Sequence[tuple[str, str | None, str | None]]) -> None:
    """Raise GtaError where a manifest does not have the images that its head says."""
    if (head := _HEAD.search(text)) is None:
        return
    own = "\n".join(sorted(f"{name} {sha}" for name, _, sha in rows)).encode("utf-8", "surrogateescape")
    if len(rows) != int(head[1]) or hashlib.sha256(own).hexdigest() != head[2]:
        raise GtaError(
            f"--subset-list {path} names {len(rows)} images, not the {head[1]} of the digest in its head: it was "
            "cut or changed. Write it anew with gta data manifest, or delete its first lines to use it as it is."
        )


def _is_comment(line: str, index: Mapping[str, list[Sample]]) -> bool:
    """A line that begins with #, unless it names an image whose path has a part that does."""
    if not line.startswith("#"):
        return False
    name = _row(line)[0]
    first = PurePosixPath(name).parts[0]
    return not any(first in PurePosixPath(s.name).parts for s in _find(name, index))


def _row(line: str) -> tuple[str, str | None, str | None]:
    """Path, class and SHA-256 of a line; a class is what stands behind the space after an image file's ending."""
    if "\t" in line:
        name, word, *sha = line.rstrip("\r").split("\t")
        return name.strip().removeprefix("./"), word.strip(), sha[0].strip() if sha else None
    found = _LINE.fullmatch(line.strip())
    return (found[1], found[2], None) if found else (line.strip(), None, None)


def _find(name: str, index: Mapping[str, list[Sample]]) -> list[Sample]:
    """The samples that share the longest end of this path."""
    wanted = PurePosixPath(name.replace("\\", "/")).parts[::-1]
    found = index.get(wanted[0], []) if wanted else []
    if same := [s for s in found if s.name == name]:
        return same
    for depth in range(2, len(wanted) + 1):
        closer = [s for s in found if PurePosixPath(s.name).parts[::-1][:depth] == wanted[:depth]]
        if len(found) < 2 or not closer:
            break
        found = closer
    return found
