"""Read a data set completely, check it, and choose the training images.

Everything is read and checked here, before any training: what comes out can be trained on.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gta.data.datasets import list_data, title
from gta.data.images import inspect_all
from gta.data.manifest import listed, manifest_text
from gta.data.readers.folders import by_class, folder_samples
from gta.data.sample import SPLITS, Listing, Sample
from gta.data.subsets import digest, held_out, take_fraction
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
            raise GtaError(f"split must be train, val or test, got {name!r}.")
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
        GtaError: no such data, no images, fewer than two classes, a class that is missing in a split, unreadable
            files (all of them listed), masks of another size than their image, or a list that does not fit.
    """
    if subset_list is not None and fraction != 1:
        raise GtaError(f"--subset-list chooses the training images already: leave --fraction {fraction} out.")
    listing = list_data(spec, download)
    splits, bad = read_files(listing.splits)
    _refuse(bad, f"of {len(bad) + sum(map(len, splits.values()))} images", listing, skip_unreadable)
    _check_classes(listing, splits)
    train = splits["train"]
    names = [[s.name for s in train if s.label == label] for label in range(len(listing.classes))]
    chosen = None if subset_list is None else listed(Path(subset_list), listing.classes, train)
    rest = [[name for name in of if name not in chosen] for of in names] if chosen is not None else names
    held = {name for of in rest for name in held_out(of, seed)} if "val" not in splits else set()
    if chosen is None:
        chosen = {name for of in names for name in take_fraction(of, fraction, seed)} - held
    splits = {
        "train": tuple(s for s in train if s.name in chosen),
        "val": splits.get("val") or tuple(s for s in train if s.name in held),
        "test": splits.get("test", ()),
    }
    bad_masks = unusable_masks([s for samples in splits.values() for s in samples])
    _refuse(bad_masks, "masks", listing, skip_unreadable)
    splits = {split: without_masks(samples, bad_masks) for split, samples in splits.items()}
    return Photos(
        classes=listing.classes,
        **splits,
        digests={split: digest(samples) for split, samples in splits.items()},
        skipped={_inside(listing.root, path): reason for path, reason in sorted((bad | bad_masks).items())},
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
        raise GtaError(f"{root / split} has {_first(strange)}, which the model was not trained on.")
    listing = Listing(root, tuple(classes), {split: folder_samples(root, classes, paths)}, title=str(root))
    splits, bad = read_files(listing.splits)
    _refuse(bad, f"of {len(bad) + sum(map(len, splits.values()))} images", listing, skip_unreadable)
    if not splits[split]:
        raise GtaError(f"no images in {root / split}: expected files such as {root / split / 'CLASS' / 'photo.jpg'}.")
    bad_masks = unusable_masks(splits[split])
    _refuse(bad_masks, "masks", listing, skip_unreadable)
    return without_masks(splits[split], bad_masks)


def read_files(splits: Mapping[str, Sequence[Sample]]) -> tuple[dict[str, tuple[Sample, ...]], dict[Path, str]]:
    """Read every image completely.

    Returns:
        The samples that can be read, by split, with SHA-256 and size; and of the other files the reason.
    """
    good, bad = inspect_all(s.path for samples in splits.values() for s in samples)
    read = {
        split: tuple(replace(s, sha256=good[s.path][0], size=good[s.path][1]) for s in samples if s.path in good)
        for split, samples in splits.items()
    }
    return read, bad


def unusable_masks(samples: Sequence[Sample]) -> dict[Path, str]:
    """The masks, of samples that were read, that cannot be read or do not fit their image, with the reason."""
    good, wrong = inspect_all({s.mask: None for s in samples if s.mask is not None})
    owner: dict[Path, str] = {}
    for s in samples:
        if s.mask is None:
            continue
        if s.mask in good and good[s.mask][1] != s.size:
            wrong[s.mask] = "{}×{} px, but its image {} has {}×{} px".format(*good[s.mask][1], s.name, *s.size)
        if owner.setdefault(s.mask, s.name) != s.name:
            wrong[s.mask] = f"belongs to several images: {owner[s.mask]}, {s.name}"
    return wrong


def without_masks(samples: Sequence[Sample], unusable: Container[Path | None]) -> tuple[Sample, ...]:
    """The samples, without those of their masks that are unusable."""
    return tuple(replace(s, mask=None) if s.mask in unusable else s for s in samples)


def _refuse(problems: Mapping[Path, str], what: str, listing: Listing, skip: bool) -> None:
    if problems and not skip:
        reasons = "\n".join(f"  {_inside(listing.root, path)}: {reason}" for path, reason in sorted(problems.items()))
        raise GtaError(
            f"{len(problems)} {what} in {listing.title} cannot be used:\n{reasons}\n"
            "Repair or remove them, or leave them out with --skip-unreadable."
        )


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
            problems.append(f"{split} has no (readable) image of {_first(empty)}")
        if strange:
            problems.append(f"{split} has {_first(strange)}, which train does not have")
    if problems:
        raise GtaError(
            f"the classes of {listing.title} differ between its splits: {'; '.join(problems)}. Every split must hold "
            "images of every class: add some, remove the class everywhere, or remove the split."
        )


def _first(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _inside(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def write_manifest(spec: str, out: Path, *, fraction: float = 1.0, seed: int = 0) -> Photos:
    """Write the manifest of the training images that a fraction and a seed choose.

    Raises:
        GtaError: as `read_photos`, or `out` cannot be written.
    """
    photos = read_photos(spec, fraction=fraction, seed=seed)
    about = f"{title(spec)}: train, fraction {fraction}, seed {seed}"
    text = manifest_text(about, photos.classes, photos.train)
    with atomic_write(out, "--out") as new:
        new.write_text(text, encoding="utf-8", errors="surrogateescape")
    return photos
