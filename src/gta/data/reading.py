"""Read a data set completely, check it, and choose the training images.

Everything is read and checked here, before any training: what comes out can be trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gta.data.datasets import list_data, title
from gta.data.duplicates import same_files
from gta.data.folds import folds_of
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
        notes: what is passed over, and test images that are training images as well, in sentences.
        val_held_out: val was held out of train, so that it shares whatever misleads there.
    """

    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    digests: dict[str, str]
    skipped: dict[str, str]
    notes: tuple[str, ...] = ()
    val_held_out: bool = False

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
    val_fraction: float = 0.1,
    folds: int = 0,
    fold: int | None = None,
) -> Photos:
    """Read a data set, check every file in it, and choose the training images.

    Where the set has no val split, a seeded share of every class of train is held out first. Of the n images that a
    class has in train (held-out ones counted), ceil(fraction × n) are then kept, as far as there are so many left.
    With `subset_list` the training images are those of the list, all of them, and val is held out of the others only.
    With `folds`, what train (the fraction of it) and val hold is cut into folds: one is val, the others train.

    Args:
        spec: NAME:ROOT, a folder with train/CLASS/, or a .csv file; see `gta.data.datasets`.
        fraction: share of every class's training images, above 0 and up to 1.
        seed: of the held-out tenth and of the fraction.
        skip_unreadable: leave unreadable files out instead of refusing them.
        subset_list: file naming the training images, see `gta.data.manifest`.
        download: fetch a named set where it is not there.
        val_fraction: share of every class that is held out where the set has no val split.
        folds: of cross-validation, see `gta.data.folds`; 0 for none.
        fold: which of them is val; None: all are train, and val is empty.

    Raises:
        GtaError: no such data, no images, fewer than two classes, a class that is missing in a split, unreadable
            files (all of them listed), masks of another size than their image, or a list that does not fit.
    """
    if subset_list is not None and folds:
        raise GtaError("--cross-validate cuts all training images into folds: leave --subset-list out.")
    if subset_list is not None and fraction != 1:
        raise GtaError(f"--subset-list chooses the training images already: leave --fraction {fraction} out.")
    listing = list_data(spec, download)
    splits, bad = read_files(listing.splits)
    check(listing, splits, bad, skip_unreadable)
    train = splits["train"]
    chosen = None if subset_list is None else listed(Path(subset_list), listing.classes, train)
    names = [[s.name for s in train if s.label == label] for label in range(len(listing.classes))]
    left = names if chosen is None else [[name for name in of if name not in chosen] for of in names]
    held: set[str] = set()
    if "val" not in splits and not folds:
        held = {name for of in left for name in held_out(of, seed, val_fraction)}
    if chosen is None:
        chosen = {name for of in names for name in take_fraction(of, fraction, seed)} - held
    splits = {
        "train": tuple(s for s in train if s.name in chosen),
        "val": splits.get("val", tuple(s for s in train if s.name in held)),
        "test": splits.get("test", ()),
    }
    if folds:
        splits |= _folded((*splits["train"], *splits["val"]), listing.classes, folds, fold, seed)
    splits, bad_masks = without_unusable_masks(splits)
    _refuse(bad_masks, "masks", listing, skip_unreadable)
    same = same_files([*splits["train"], *splits["val"]], splits["test"])
    copies = [f"{len(same)} test images are training or validation images too, such as {t.name!r}" for _, t in same[:1]]
    return Photos(
        classes=listing.classes,
        **splits,
        digests={split: digest(samples) for split, samples in splits.items()},
        skipped={_inside(listing.root, path): reason for path, reason in sorted((bad | bad_masks).items())},
        notes=(*(f"passed over: {note}" for note in listing.notes), *copies),
        val_held_out="val" not in listing.splits or folds > 0,
    )


def _folded(
    samples: Sequence[Sample], classes: Sequence[str], folds: int, fold: int | None, seed: int
) -> dict[str, tuple[Sample, ...]]:
    ordered = sorted(samples, key=lambda s: (s.label, s.name))
    of = folds_of(ordered, classes, folds, seed)
    return {
        "train": tuple(s for s, number in zip(ordered, of, strict=True) if number != fold),
        "val": tuple(s for s, number in zip(ordered, of, strict=True) if number == fold),
    }


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
    listing = Listing(root, tuple(classes), {split: folder_samples(root, classes, paths)}, str(root))
    splits, bad = read_files(listing.splits)
    _refuse(bad, "of {} images", listing, skip_unreadable)
    if not splits[split]:
        raise GtaError(f"no images in {root / split}: expected files such as {root / split / 'CLASS' / 'photo.jpg'}.")
    splits, bad_masks = without_unusable_masks(splits)
    _refuse(bad_masks, "masks", listing, skip_unreadable)
    return splits[split]


Splits = dict[str, tuple[Sample, ...]]


def read_files(splits: Mapping[str, Sequence[Sample]]) -> tuple[Splits, dict[Path, str]]:
    """The samples whose image can be read completely, with SHA-256 and size; and the other files with the reason."""
    good, bad = inspect_all(s.path for samples in splits.values() for s in samples)
    read = {
        split: tuple(replace(s, sha256=good[s.path][0], size=good[s.path][1]) for s in samples if s.path in good)
        for split, samples in splits.items()
    }
    return read, bad


def without_unusable_masks(splits: Splits) -> tuple[Splits, dict[Path, str]]:
    """Samples that were read, without masks that cannot be read or do not fit; and those masks with the reason."""
    masked = [(s, s.mask) for samples in splits.values() for s in samples if s.mask is not None]
    good, wrong = inspect_all({mask: None for _, mask in masked})
    owner: dict[Path, str] = {}
    for s, mask in masked:
        if mask in good and good[mask][1] != s.size:
            wrong[mask] = "{}×{} px, but its image {} has {}×{} px".format(*good[mask][1], s.name, *s.size)
        if owner.setdefault(mask, s.name) != s.name:
            wrong[mask] = f"belongs to several images: {owner[mask]}, {s.name}"
    usable = {k: tuple(replace(s, mask=None) if s.mask in wrong else s for s in of) for k, of in splits.items()}
    return usable, wrong


def check(listing: Listing, splits: Splits, bad: Mapping[Path, str], skip_unreadable: bool = False) -> None:
    """Refuse what cannot be trained on; gta train and gta data check ask here.

    Args:
        listing: the images.
        splits: those that were read.
        bad: the others, with the reason.
        skip_unreadable: leave these out.

    Raises:
        GtaError: files that are not to be left out, fewer than two classes, or a class that is missing in a split.
    """
    _refuse(bad, "of {} images", listing, skip_unreadable)
    _check_classes(listing, splits)


def _refuse(problems: Mapping[Path, str], what: str, listing: Listing, skip: bool) -> None:
    if problems and not skip:
        reasons = "\n".join(f"  {_inside(listing.root, path)}: {reason}" for path, reason in sorted(problems.items()))
        count = f"{len(problems)} {what.format(sum(map(len, listing.splits.values())))}"
        raise GtaError(
            f"{count} in {listing.title} cannot be used:\n{reasons}\n"
            "Repair or remove them, or leave them out with --skip-unreadable."
        )


def _check_classes(listing: Listing, splits: Splits) -> None:
    has = {split: {listing.classes[s.label] for s in samples} for split, samples in splits.items()}
    if not has.get("train"):
        example = listing.root / "train" / "CLASS" / "photo.jpg"
        raise GtaError(f"no images in {listing.title}'s train split: expected files such as {example}.")
    if len(listing.classes) < 2:
        raise GtaError(f"{listing.title} holds one class only, {listing.classes[0]!r}: a classifier needs two.")
    problems = []
    elsewhere = set().union(*(of for split, of in has.items() if split != "train"))
    for split, there in has.items():
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
    text = manifest_text(f"{title(spec)}: train, fraction {fraction}, seed {seed}", photos.classes, photos.train)
    with atomic_write(out, "--out") as new:
        new.write_text(text, encoding="utf-8", errors="surrogateescape")
    return photos
