"""Read a data set completely, check it, and choose the training images.

Everything is read and checked here, before any training: what comes out can be trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gta.data.datasets import list_data, title
from gta.data.datasets.folders import by_class, folder_samples
from gta.data.images import inspect_all
from gta.data.manifest import listed, manifest_text
from gta.data.sample import SPLITS, Listing, Sample
from gta.data.subsets import digest, held_out, kept
from gta.errors import GtaError
from gta.files import atomic_write


@dataclass(frozen=True)
class Photos:
    """The checked photographs of a data set.

    Attributes:
        classes: class names in label order (sorted, or a published set's own order).
        train, val, test: samples; val is held out of train where the set has none, test may be empty.
        digests: per split, SHA-256 over the lines "path sha256-of-the-file" of its samples.
        skipped: unreadable images and unusable masks that were left out, with the reason.
    """

    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    digests: dict[str, str]
    skipped: dict[str, str]

    def split(self, name: str) -> tuple[Sample, ...]:
        if name not in SPLITS:
            raise GtaError(f"split={name!r} is not known: use train, val or test.")
        samples: tuple[Sample, ...] = getattr(self, name)
        if not samples:
            raise GtaError(f"the data has no {name} split: add a folder {name}/CLASS/ with images.")
        return samples


def read_photos(
    spec: str | Path,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    skip_unreadable: bool = False,
    subset_list: str | Path | None = None,
    download: bool = False,
) -> Photos:
    """Read a data set, check every file in it, and choose the training images.

    Where the set has no val split, a seeded tenth of every class of train is held out first. Of the n images that a
    class has in train (held-out ones counted), ceil(fraction × n) are then kept, as far as there are so many left.
    With `subset_list` the training images are those of the list, all of them, and val is held out of the others only.

    Args:
        spec: NAME:ROOT, a folder with train/CLASS/, or a .csv file; see `gta.data.datasets`.
        fraction: share of every class's training images, above 0 and up to 1.
        seed: of the held-out tenth and of the fraction.
        skip_unreadable: leave unreadable files out instead of refusing them.
        subset_list: file naming the training images, see `gta.data.manifest`.
        download: fetch a named set where it is not there.

    Raises:
        GtaError: no such data, no images, fewer than two classes, a class that is missing or empty in a split,
            unreadable files (all of them listed), masks of another size than their image, or a list that does not fit.
    """
    if subset_list is not None and fraction != 1:
        raise GtaError(f"--subset-list chooses the training images already: leave --fraction {fraction} out.")
    listing = list_data(spec, download)
    every = [s for samples in listing.splits.values() for s in samples]
    good, bad = _readable(listing, [s.path for s in every], skip_unreadable)
    splits = {split: tuple(s for s in samples if s.path in good) for split, samples in listing.splits.items()}
    _check_classes(listing, splits)
    chosen: dict[str, tuple[Sample, ...]] = {split: splits.get(split, ()) for split in SPLITS}
    names = {c: [s.name for s in splits["train"] if s.label == c] for c in range(len(listing.classes))}
    if subset_list is None:
        held = {n for c in names.values() for n in held_out(c, seed)} if "val" not in splits else set()
        keep = {n for c in names.values() for n in kept(c, fraction, seed)} - held
    else:
        keep = listed(Path(subset_list), listing.classes, splits["train"], {p: sha for p, (sha, _) in good.items()})
        rest = {c: [n for n in of if n not in keep] for c, of in names.items()}
        held = {n for of in rest.values() for n in held_out(of, seed)} if "val" not in splits else set()
    chosen["train"] = tuple(s for s in splits["train"] if s.name in keep)
    if "val" not in splits:
        chosen["val"] = tuple(s for s in splits["train"] if s.name in held)
    unusable = _unusable_masks(listing, [s for samples in chosen.values() for s in samples], good, skip_unreadable)
    chosen = {
        split: tuple(replace(s, sha256=good[s.path][0]) for s in _without(samples, unusable))
        for split, samples in chosen.items()
    }
    return Photos(
        classes=listing.classes,
        **chosen,
        digests={k: digest([f"{s.name} {s.sha256}" for s in v]) for k, v in chosen.items()},
        skipped={_shown(listing.root, path): reason for path, reason in sorted((bad | unusable).items())},
    )


def read_split(
    root: str | Path, split: str, classes: Sequence[str], *, skip_unreadable: bool = False
) -> tuple[Sample, ...]:
    """Read one split's folder alone, with the labels of a trained model's classes.

    Raises:
        GtaError: no images, classes the model does not know, unreadable files, or unusable masks.
    """
    root = Path(root)
    paths = by_class(root / split)
    strange = [c for c, files in paths.items() if files and c not in classes]
    if strange:
        raise GtaError(f"{root / split} has {_listed(strange)}, which the model was not trained on.")
    listing = Listing(str(root), root, tuple(classes), {})
    good, _ = _readable(listing, [p for files in paths.values() for p in files], skip_unreadable)
    if not good:
        raise GtaError(f"no images in {root / split}: expected files such as {root / split / 'CLASS' / 'photo.jpg'}.")
    samples = [s for s in folder_samples(root, listing.classes, paths) if s.path in good]
    return _without(samples, _unusable_masks(listing, samples, good, skip_unreadable))


_Inspected = dict[Path, tuple[str, tuple[int, int]]]  # SHA-256, size


def _readable(listing: Listing, paths: Sequence[Path], skip_unreadable: bool) -> tuple[_Inspected, dict[Path, str]]:
    good, bad = inspect_all(paths)
    if bad and not skip_unreadable:
        raise GtaError(
            f"{len(bad)} of {len(paths)} images in {listing.title} cannot be read:\n{_reasons(listing.root, bad)}\n"
            "Repair or remove them, or leave them out with --skip-unreadable."
        )
    return good, bad


def _check_classes(listing: Listing, splits: dict[str, tuple[Sample, ...]]) -> None:
    has = {split: {listing.classes[s.label] for s in samples} for split, samples in splits.items()}
    if not has.get("train"):
        raise GtaError(
            f"no images in {listing.title}'s train split: expected files such as "
            f"{listing.root / 'train' / 'CLASS' / 'photo.jpg'}."
        )
    if len(listing.classes) < 2:
        raise GtaError(f"{listing.title} holds one class only, {listing.classes[0]!r}: a classifier needs two.")
    problems = []
    for split, there in has.items():
        elsewhere = set().union(*(of for other, of in has.items() if other != "train"))
        wanted = has["train"] if split != "train" else set(listing.classes) - elsewhere
        empty = [c for c in listing.classes if c in wanted and c not in there]
        strange = [c for c in listing.classes if c in there and c not in has["train"]]
        if empty:
            problems.append(f"{split} has no (readable) image of {_listed(empty)}")
        if strange:
            problems.append(f"{split} has {_listed(strange)}, which train does not have")
    if problems:
        raise GtaError(
            f"the classes of {listing.title} differ between its splits: {'; '.join(problems)}. Every split must hold "
            "images of every class: add some, remove the class everywhere, or remove the split."
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _unusable_masks(
    listing: Listing, samples: Sequence[Sample], images: _Inspected, skip_unreadable: bool
) -> dict[Path, str]:
    """Masks that cannot be used, with the reason; an error unless they are to be left out."""
    good, bad = inspect_all({s.mask: None for s in samples if s.mask is not None})
    wrong: dict[Path, str] = {}
    owner: dict[Path, str] = {}
    for s in samples:
        if s.mask is None:
            continue
        if s.mask in bad:
            wrong[s.mask] = bad[s.mask]
        elif good[s.mask][1] != images[s.path][1]:
            sizes = (*good[s.mask][1], s.name, *images[s.path][1])
            wrong[s.mask] = "{}×{} px, but its image {} has {}×{} px".format(*sizes)
        if owner.setdefault(s.mask, s.name) != s.name:
            wrong[s.mask] = f"belongs to several images: {owner[s.mask]}, {s.name}"
    if wrong and not skip_unreadable:
        raise GtaError(
            f"{len(wrong)} masks in {listing.title} cannot be used:\n{_reasons(listing.root, wrong)}\n"
            "Repair or remove them, or leave them out with --skip-unreadable."
        )
    return wrong


def _without(samples: Sequence[Sample], unusable: dict[Path, str]) -> tuple[Sample, ...]:
    return tuple(replace(s, mask=None) if s.mask in unusable else s for s in samples)


def _reasons(root: Path, files: dict[Path, str]) -> str:
    return "\n".join(f"  {_shown(root, path)}: {reason}" for path, reason in sorted(files.items()))


def _shown(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def write_manifest(spec: str, out: Path, *, fraction: float = 1.0, seed: int = 0) -> Photos:
    """Write the manifest of the training images that a fraction and a seed choose.

    Raises:
        GtaError: as `read_photos`, or `out` cannot be written.
    """
    photos = read_photos(spec, fraction=fraction, seed=seed)
    sums = {s.path: s.sha256 for s in photos.train}
    note = f"train, fraction {fraction}, seed {seed}"
    text = manifest_text(title(spec), note, photos.classes, photos.train, sums)
    with atomic_write(out, "--out") as new:
        new.write_text(text, encoding="utf-8", errors="surrogateescape")
    return photos
