"""Verify a data set: counts, readability, masks, and images that are in train and test."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gta.data.datasets import list_data
from gta.data.duplicates import Pair, look_alikes, same_files
from gta.data.reading import check, read_files, without_unusable_masks
from gta.data.sample import evenly_spread
from gta.data.sheet import draw_sheet
from gta.data.subsets import digest
from gta.errors import GtaError

SHOWN = 24  # sample pictures


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        summary: numbers by name, in the order to print.
        unreadable: files that cannot be used, with the reason.
        same: test images with the bytes of a training (or validation) image, as pairs (that one, test image).
        alike: further test images that look like one, with the nearest.
        notes: what is passed over, in sentences.
        refusal: why gta train would refuse the set; None where it takes it.
    """

    summary: dict[str, Any]
    unreadable: dict[str, str]
    same: list[Pair]
    alike: list[Pair]
    notes: tuple[str, ...] = ()
    refusal: str | None = None


def check_data(spec: str, pictures: Path | None = None, download: bool = False) -> Checked:
    """Read every file of a data set.

    Args:
        spec: NAME:ROOT, a folder, or a .csv file.
        pictures: PNG file to draw sample pictures into, with masks outlined, and the duplicates found.
        download: fetch a named set where it is not there.

    Raises:
        GtaError: the set is not there, or not of the official counts.
    """
    listing = list_data(spec, download)
    splits, bad = read_files(listing.splits)
    splits, bad_masks = without_unusable_masks(splits)
    refusal = None
    try:
        check(listing, splits, bad | bad_masks)
    except GtaError as error:
        refusal = str(error)
    if not splits.get("train"):
        raise GtaError(str(refusal))
    every = [s for samples in splits.values() for s in samples]
    before, test = [*splits["train"], *splits.get("val", ())], splits.get("test", ())
    same = same_files(before, test)
    known = {t.name for _, t in same}
    alike = look_alikes(before, [t for t in test if t.name not in known])
    if pictures is not None:
        masked = [s for s in splits["train"] if s.mask is not None]
        chosen = evenly_spread(masked or splits["train"], SHOWN)
        draw_sheet(chosen, listing.classes, [*same, *alike][:SHOWN], pictures)
    per_class = Counter(s.label for s in splits["train"])
    sizes = [per_class[label] for label in range(len(listing.classes))]
    sides = sorted(min(s.size) for s in every)
    summary = {
        "data": listing.title,
        "classes": len(listing.classes),
        **{f"{split}_images": len(samples) for split, samples in listing.splits.items()},
        "images_per_class_in_train": f"{min(sizes)} to {max(sizes)}",
        "shorter_side_px": f"{sides[0]} to {sides[-1]}, median {median(sides):.0f}" if sides else None,
        "masks": len({s.mask for s in every} - {None}),
        "same_file_in_train_and_test": len(same),
        "of_them_with_another_class": sum(s.label != t.label for s, t in same),
        "look_alikes_in_train_and_test": len(alike),
        **{f"{split}_digest": digest(samples) for split, samples in splits.items()},
    }
    unreadable = {str(path): reason for path, reason in sorted((bad | bad_masks).items())}
    return Checked(summary, unreadable, same, alike, listing.notes, refusal)
