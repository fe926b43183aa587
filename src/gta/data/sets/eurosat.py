"""EuroSAT RGB (Helber et al. 2019, arXiv 1709.00029): 27,000 satellite tiles of 10 land uses, by torchvision's loader.

The set has no official split. Here a fifth of every class is test: the last in line by SHA-256 of its path, the same
on every machine and for every seed (the paper's 80/20 split was random and not published).
"""

from __future__ import annotations

from pathlib import Path

from gta.data.listing import DataSet, Listing, Sample
from gta.data.sets.vision import fetch_with, read_with
from gta.data.subsets import in_line

_FOLDER = "eurosat"


def _read(root: Path) -> Listing:
    listing = read_with(
        "EuroSAT",
        _FOLDER,
        root,
        {"all": {}},
        lambda data: ([path for path, _ in data.samples], data.targets),
        ("2750",),
    )
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for label in range(len(listing.classes)):
        of = {s.name: s for s in listing.splits["all"] if s.label == label}
        order = in_line(list(of), 0)
        first_test = len(order) - round(len(order) / 5)
        splits["train"] += [of[name] for name in order[:first_test]]
        splits["test"] += [of[name] for name in order[first_test:]]
    return Listing("", listing.root, listing.classes, splits)


SET = DataSet(
    name="eurosat",
    title="EuroSAT RGB (Helber et al. 2019)",
    source="Get EuroSAT.zip (EuroSAT_RGB.zip) from https://zenodo.org/records/7711810.",
    layout="ROOT holds 2750/CLASS/*.jpg.",
    classes=10,
    expected={"train": 21600, "test": 5400},
    read=_read,
    fetch=fetch_with("EuroSAT", _FOLDER),
)
