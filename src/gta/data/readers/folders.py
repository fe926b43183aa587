"""A folder of photographs: `train/CLASS/*`, optionally `val/`, `test/` and `masks/SPLIT/CLASS/NAME.png`."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gta.data.images import is_image_name
from gta.data.sample import SPLITS, Listing, Sample
from gta.errors import GtaError

_OF_SYSTEMS = ("Thumbs.db", "desktop.ini")


def list_folder(root: Path) -> Listing:
    """List a folder's images; classes are the names of the class folders, sorted.

    Raises:
        GtaError: no folder called train, or images outside class folders.
    """
    if not (root / "train").is_dir():
        raise GtaError(
            f"{root} holds no folder called train. Put the photographs into {root / 'train'}/CLASS/, one folder "
            "per class (and optionally val/CLASS/ and test/CLASS/). Published data sets are read as NAME:ROOT, such as "
            f"cub:{root}."
        )
    files = {split: by_class(root / split) for split in SPLITS if (root / split).is_dir()}
    elsewhere = {c for of in files.values() for c, paths in of.items() if paths}
    classes = tuple(sorted(files["train"].keys() | elsewhere))
    splits = {split: folder_samples(root, classes, of) for split, of in files.items()}
    return Listing(root, classes, splits, str(root), tuple(_passed_over(root, splits)))


def by_class(folder: Path) -> dict[str, list[Path]]:
    """Image files per class folder, at any depth below it; hidden folders and other files are passed over.

    (torchvision's ImageFolder would take hidden files, and leave out images outside class folders without a word.)
    """
    strays = [p for p in folder.iterdir() if is_image_name(p) and p.is_file()]
    if strays:
        raise GtaError(
            f"{len(strays)} images lie directly in {folder}, {strays[0].name} among them: put each into the folder of "
            f"its class, such as {folder / 'CLASS' / strays[0].name}."
        )
    classes = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            classes[entry.name] = sorted(p for p in _files(entry) if is_image_name(p))
    return classes


def _files(folder: Path) -> Iterator[Path]:
    """All but hidden ones, at any depth; links to folders as well, which are not followed.

    Raises:
        OSError: a folder that must not be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in folders if Path(place, name).is_symlink())
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _passed_over(root: Path, splits: Mapping[str, Sequence[Sample]]) -> Iterator[str]:
    """What looks as if it was meant to be used and is not."""
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if folder.name not in (*SPLITS, "masks") and any(map(is_image_name, _files(folder))):
            yield f"the folder {folder.name!r} (splits are called {', '.join(SPLITS)})"
    others = [p for split in splits for p in _files(root / split) if not is_image_name(p) and p.name not in _OF_SYSTEMS]
    if linked := [p.relative_to(root).as_posix() for p in others if p.is_dir()]:
        yield f"{len(linked)} links to folders inside of class folders, such as {linked[0]!r}"
    if kinds := Counter(p.suffix.lower() for p in others if not p.is_dir()):
        listed = ", ".join(f"{count} {suffix or 'without ending'}" for suffix, count in sorted(kinds.items()))
        yield f"{sum(kinds.values())} files that are no images of a kind that is read ({listed})"
    used = {s.mask for samples in splits.values() for s in samples}
    masks = _files(root / "masks") if (root / "masks").is_dir() else iter(())
    if left := [p.relative_to(root).as_posix() for p in masks if is_image_name(p) and p not in used]:
        yield f"{len(left)} masks, such as {left[0]!r}: each must be masks/SPLIT/CLASS/NAME.png of an image"


def folder_samples(root: Path, classes: Sequence[str], files: Mapping[str, Sequence[Path]]) -> list[Sample]:
    """Samples in label order, each with `masks/…/NAME.png` where there is one."""
    samples = []
    for label, c in enumerate(classes):
        for path in files.get(c, ()):
            inside = path.relative_to(root)
            mask = (root / "masks" / inside).with_suffix(".png")
            samples.append(Sample(path, inside.as_posix(), label, mask if mask.is_file() else None))
    return samples
