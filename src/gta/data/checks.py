"""Verify a data set: counts, readability, masks, and images that are in train and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gta.data.datasets import list_data
from gta.data.duplicates import Pair, look_alikes, same_files
from gta.data.images import inspect_all
from gta.data.sample import Listing, Sample
from gta.data.sheet import draw_sheet
from gta.data.subsets import digest

SHOWN = 24  # sample pictures


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        summary: numbers by name, in the order to print.
        unreadable: files that cannot be used, with the reason.
        same: test images with the bytes of a training (or validation) image, as pairs (that one, test image).
        alike: further test images that look like one, with the nearest.
    """

    summary: dict[str, Any]
    unreadable: dict[str, str]
    same: list[Pair]
    alike: list[Pair]


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
    every = [s for samples in listing.splits.values() for s in samples]
    good, bad = inspect_all([s.path for s in every])
    masks, bad_masks = inspect_all({s.mask: None for s in every if s.mask is not None})
    for s in every:
        if s.mask in masks and s.path in good and masks[s.mask][1] != good[s.path][1]:
            bad_masks[s.mask] = "{}×{} px, its image {}×{} px".format(*masks[s.mask][1], *good[s.path][1])
    there = {split: [s for s in samples if s.path in good] for split, samples in listing.splits.items()}
    sums = {path: sha for path, (sha, _) in good.items()}
    before, test = [*there["train"], *there.get("val", ())], there.get("test", [])
    same = same_files(before, test, sums)
    known = {t.name for _, t in same}
    alike = look_alikes(before, [t for t in test if t.name not in known])
    if pictures is not None:
        draw_sheet(_spread(there["train"]), listing.classes, [*same, *alike][:SHOWN], pictures)
    return Checked(
        summary=_summary(listing, there, good, len(masks), same, alike),
        unreadable={str(path): reason for path, reason in sorted((bad | bad_masks).items())},
        same=same,
        alike=alike,
    )


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """Some samples, evenly over the split, those with masks first."""
    from_these = [s for s in samples if s.mask is not None] or list(samples)
    count = min(SHOWN, len(from_these))
    return [from_these[(2 * i + 1) * len(from_these) // (2 * count)] for i in range(count)]


def _summary(
    listing: Listing,
    there: Mapping[str, Sequence[Sample]],
    good: Mapping[Path, tuple[str, tuple[int, int]]],
    masks: int,
    same: Sequence[Pair],
    alike: Sequence[Pair],
) -> dict[str, Any]:
    per_class = Counter(s.label for s in there["train"])
    sizes = [per_class[label] for label in range(len(listing.classes))]
    sides = sorted(min(size) for _, size in good.values())
    return {
        "data": listing.title,
        "classes": len(listing.classes),
        **{f"{split}_images": len(samples) for split, samples in listing.splits.items()},
        "images_per_class_in_train": f"{min(sizes)} to {max(sizes)}",
        "shorter_side_px": f"{sides[0]} to {sides[-1]}, median {median(sides):.0f}" if sides else None,
        "masks": masks,
        "same_file_in_train_and_test": len(same),
        "of_them_with_another_class": sum(s.label != t.label for s, t in same),
        "look_alikes_in_train_and_test": len(alike),
        **{f"{split}_digest": digest([f"{s.name} {good[s.path][0]}" for s in of]) for split, of in there.items()},
    }
