"""A folder of photographs: `train/CLASS/*`, optionally `val/`, `test/` and `masks/SPLIT/CLASS/NAME.png`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gta.data.images import is_image_name
from gta.data.sample import SPLITS, Listing, Sample
from gta.errors import GtaError


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
    return Listing(root, classes, splits, title=str(root))


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
            inside = (p for p in entry.rglob("*") if is_image_name(p) and (p.is_file() or p.is_symlink()))
            classes[entry.name] = sorted(
                p for p in inside if not any(part.startswith(".") for part in p.relative_to(entry).parts)
            )
    return classes


def folder_samples(root: Path, classes: Sequence[str], files: Mapping[str, Sequence[Path]]) -> list[Sample]:
    """Samples in label order, each with `masks/…/NAME.png` where there is one."""
    samples = []
    for label, c in enumerate(classes):
        for path in files.get(c, ()):
            inside = path.relative_to(root)
            mask = (root / "masks" / inside).with_suffix(".png")
            samples.append(Sample(path, inside.as_posix(), label, mask if mask.is_file() else None))
    return samples
