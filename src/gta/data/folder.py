"""A folder of photographs: `train/CLASS/*`, optionally `val/`, `test/` and `masks/SPLIT/CLASS/NAME.png`.

Everything is read and checked here, before any training: what comes out can be trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gta.data.images import inspect_all, is_image_name
from gta.data.subsets import digest, held_out, kept
from gta.errors import GtaError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One photograph: its path, its path inside the data folder, its label, and its object mask if any."""

    path: Path
    name: str
    label: int
    mask: Path | None = None


@dataclass(frozen=True)
class Photos:
    """The checked photographs of a data folder.

    Attributes:
        classes: class names in label order (sorted).
        train, val, test: samples; val is held out of train where the folder has none, test may be empty.
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


def read_photos(root: str | Path, *, fraction: float = 1.0, seed: int = 0, skip_unreadable: bool = False) -> Photos:
    """Read a data folder, check every file in it, and choose the training images.

    Without `val/`, a seeded tenth of every class of train is held out first; `fraction` then keeps
    ceil(fraction × n) of the n images that each class has left.

    Raises:
        GtaError: no such folder, no images, fewer than two classes, a class that is missing or empty in a
            split, images outside class folders, unreadable files (all of them listed), or masks of another size
            than their image.
    """
    root = Path(root)
    if not (root / "train").is_dir():
        raise GtaError(
            f"{root} holds no folder called train. Put the photographs into {root / 'train'}/CLASS/, one folder "
            "per class (and optionally val/CLASS/ and test/CLASS/)."
        )
    files = {split: _by_class(root / split) for split in SPLITS if (root / split).is_dir()}
    every = [path for classes in files.values() for paths in classes.values() for path in paths]
    good, bad = _readable(root, every, skip_unreadable)
    names = {
        split: {c: [p.relative_to(root).as_posix() for p in paths if p in good] for c, paths in classes.items()}
        for split, classes in files.items()
    }
    classes = _checked_classes(root, names)
    if "val" not in names:
        held = {c: set(held_out(names["train"][c], seed)) for c in classes}
        names["val"] = {c: [n for n in names["train"][c] if n in held[c]] for c in classes}
        names["train"] = {c: [n for n in names["train"][c] if n not in held[c]] for c in classes}
    names["train"] = {c: sorted(kept(names["train"][c], fraction, seed)) for c in classes}

    splits = {split: _samples(root, classes, names.get(split, {})) for split in SPLITS}
    unusable = _unusable_masks(root, [s for samples in splits.values() for s in samples], good, skip_unreadable)
    splits = {split: _without(samples, unusable) for split, samples in splits.items()}
    return Photos(
        classes=classes,
        **splits,
        digests={k: digest([f"{s.name} {good[s.path][0]}" for s in v]) for k, v in splits.items()},
        skipped={path.relative_to(root).as_posix(): reason for path, reason in sorted((bad | unusable).items())},
    )


def read_split(
    root: str | Path, split: str, classes: Sequence[str], *, skip_unreadable: bool = False
) -> tuple[Sample, ...]:
    """Read one split's folder alone, with the labels of a trained model's classes.

    Raises:
        GtaError: no images, classes the model does not know, unreadable files, or unusable masks.
    """
    root = Path(root)
    paths = _by_class(root / split)
    strange = [c for c, files in paths.items() if files and c not in classes]
    if strange:
        raise GtaError(f"{root / split} has {_listed(strange)}, which the model was not trained on.")
    good, _ = _readable(root, [p for files in paths.values() for p in files], skip_unreadable)
    if not good:
        raise GtaError(f"no images in {root / split}: expected files such as {root / split / 'CLASS' / 'photo.jpg'}.")
    names = {c: [p.relative_to(root).as_posix() for p in files if p in good] for c, files in paths.items()}
    samples = _samples(root, classes, names)
    return _without(samples, _unusable_masks(root, samples, good, skip_unreadable))


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Image files per class folder, at any depth below it; hidden folders and other files are passed over."""
    strays = [p for p in folder.iterdir() if is_image_name(p) and p.is_file()]
    if strays:
        raise GtaError(
            f"{len(strays)} images lie directly in {folder}, {strays[0].name} among them: put each into the folder of "
            f"its class, such as {folder / 'CLASS' / strays[0].name}."
        )
    classes = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            inside = (p for p in entry.rglob("*") if is_image_name(p) and (p.is_file() or p.is_symlink()))
            classes[entry.name] = sorted(
                p for p in inside if not any(part.startswith(".") for part in p.relative_to(entry).parts)
            )
    return classes


def _samples(root: Path, classes: Sequence[str], names: dict[str, list[str]]) -> tuple[Sample, ...]:
    return tuple(
        Sample(root / name, name, label, _mask(root, name))
        for label, c in enumerate(classes)
        for name in names.get(c, ())
    )


_Inspected = dict[Path, tuple[str, tuple[int, int]]]  # SHA-256, size


def _readable(root: Path, paths: Sequence[Path], skip_unreadable: bool) -> tuple[_Inspected, dict[Path, str]]:
    good, bad = inspect_all(paths)
    if bad and not skip_unreadable:
        raise GtaError(
            f"{len(bad)} of {len(paths)} images in {root} cannot be read:\n{_reasons(root, bad)}\n"
            "Repair or remove them, or leave them out with --skip-unreadable."
        )
    return good, bad


def _checked_classes(root: Path, names: dict[str, dict[str, list[str]]]) -> tuple[str, ...]:
    classes = tuple(sorted(names["train"]))
    if not any(names["train"].values()):
        raise GtaError(
            f"no images in {root / 'train'}: expected files such as {root / 'train' / 'CLASS' / 'photo.jpg'}."
        )
    if len(classes) < 2:
        raise GtaError(f"{root / 'train'} holds one class only, {classes[0]!r}: a classifier needs at least two.")
    problems = []
    for split, of in names.items():
        empty = [c for c in classes if not of.get(c)]
        strange = [c for c in sorted(of) if c not in classes and of[c]]
        if empty:
            problems.append(f"{split} has no (readable) image of {_listed(empty)}")
        if strange:
            problems.append(f"{split} has {_listed(strange)}, which train does not have")
    if problems:
        raise GtaError(
            f"the classes of {root} differ between its splits: {'; '.join(problems)}. Every split must hold images "
            "of every class: add some, remove the class everywhere, or remove the split."
        )
    return classes


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _mask(root: Path, name: str) -> Path | None:
    mask = (root / "masks" / name).with_suffix(".png")
    return mask if mask.is_file() else None


def _unusable_masks(
    root: Path, samples: Sequence[Sample], images: _Inspected, skip_unreadable: bool
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
            f"{len(wrong)} masks in {root / 'masks'} cannot be used:\n{_reasons(root, wrong)}\n"
            "Repair or remove them, or leave them out with --skip-unreadable."
        )
    return wrong


def _without(samples: Sequence[Sample], unusable: dict[Path, str]) -> tuple[Sample, ...]:
    return tuple(replace(s, mask=None) if s.mask in unusable else s for s in samples)


def _reasons(root: Path, files: dict[Path, str]) -> str:
    return "\n".join(f"  {path.relative_to(root).as_posix()}: {reason}" for path, reason in sorted(files.items()))
