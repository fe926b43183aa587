"""Oxford-IIIT Pet (Parkhi et al. 2012): 37 breeds of cats and dogs with trimaps. Read by torchvision's loader."""

from __future__ import annotations

from pathlib import Path

from gta.data.datasets.vision import fetch_with, read_with
from gta.data.sample import DataSet, Listing

_FOLDER = "oxford-iiit-pet"


def _read(root: Path) -> Listing:
    return read_with(
        "OxfordIIITPet",
        _FOLDER,
        root,
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        lambda data: (data._images, data._labels),
        ("images", "annotations/trainval.txt", "annotations/test.txt"),
        masks=lambda data: data._segs,
        mask_kind="trimap",
    )


SET = DataSet(
    name="pets",
    title="the Oxford-IIIT Pet data set (Parkhi et al. 2012)",
    source="Get images.tar.gz and annotations.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/pets/.",
    layout="ROOT holds images/ and annotations/ (trainval.txt, test.txt, trimaps/).",
    classes=37,
    expected={"train": 3680, "test": 3669},
    read=_read,
    fetch=fetch_with("OxfordIIITPet", _FOLDER, split="test"),
)
