"""EuroSAT RGB (Helber et al. 2019, arXiv 1709.00029): 27,000 satellite tiles of 10 land uses.

The set has no official split. Here a fifth of every class is test: the last in the seeded order, the same on every
machine and for every seed (the paper's 80/20 split was random and not published).
"""

from pathlib import Path

from torchvision.datasets import EuroSAT

from gta.data.readers.archives import inside
from gta.data.readers.vision import Torchvision
from gta.data.sample import DataSet, Listing, Sample
from gta.data.subsets import seeded_order

_FILES = Torchvision(
    EuroSAT,
    "eurosat/2750",
    splits={"all": {}},
    needs=("AnnualCrop", "SeaLake"),
    files=lambda data: ([path for path, _ in data.samples], data.targets),
    archive_folder="eurosat",
)


def _read(root: Path) -> Listing:
    listing = _FILES.read(inside(root, "2750", "EuroSAT_RGB"))  # what the older and newer archive unpack to
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for label in range(len(listing.classes)):
        of = {s.name: s for s in listing.splits["all"] if s.label == label}
        order = [of[name] for name in seeded_order(list(of), 0)]
        first_test = len(order) - round(len(order) / 5)
        splits["train"] += order[:first_test]
        splits["test"] += order[first_test:]
    return Listing(listing.root, listing.classes, splits)


SET = DataSet(
    title="EuroSAT RGB (Helber et al. 2019)",
    source="Get EuroSAT_RGB.zip from https://zenodo.org/records/7711810.",
    layout="ROOT holds 2750/CLASS/*.jpg or EuroSAT_RGB/CLASS/*.jpg.",
    classes=10,
    expected={"train": 21600, "test": 5400},
    read=_read,
    fetch=_FILES.fetch,
)
