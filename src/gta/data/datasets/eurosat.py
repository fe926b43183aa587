"""EuroSAT RGB (Helber et al. 2019, arXiv 1709.00029): 27,000 satellite tiles of 10 land uses, by torchvision's loader.

The set has no official split. Here a fifth of every class is test: the last in line by SHA-256 of its path, the same
on every machine and for every seed (the paper's 80/20 split was random and not published).
"""

from __future__ import annotations

from pathlib import Path

from gta.data.datasets.vision import fetch_with, read_with
from gta.data.sample import DataSet, Listing, Sample
from gta.data.subsets import in_line

_INSIDE = ("2750", "EuroSAT_RGB")  # what the authors' older and newer archive unpack to


def _read(root: Path) -> Listing:
    inside = next((root / name for name in _INSIDE if (root / name).is_dir()), root)
    listing = read_with(
        "EuroSAT",
        "eurosat/2750",
        inside,
        {"all": {}},
        lambda data: ([path for path, _ in data.samples], data.targets),
        ("AnnualCrop", "SeaLake"),
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
    source="Get EuroSAT_RGB.zip from https://zenodo.org/records/7711810.",
    layout="ROOT holds 2750/CLASS/*.jpg or EuroSAT_RGB/CLASS/*.jpg.",
    classes=10,
    expected={"train": 21600, "test": 5400},
    read=_read,
    fetch=fetch_with("EuroSAT", "eurosat"),
)
