"""Oxford 102 Flowers (Nilsback & Zisserman 2008). Read by torchvision's loader; official train, val and test."""

from __future__ import annotations

from pathlib import Path

from gta.data.datasets.vision import fetch_with, read_with
from gta.data.sample import DataSet, Listing

_FOLDER = "flowers-102"


def _read(root: Path) -> Listing:
    splits = {split: {"split": split} for split in ("train", "val", "test")}
    needs = ("jpg", "imagelabels.mat", "setid.mat")
    return read_with("Flowers102", _FOLDER, root, splits, lambda data: (data._image_files, data._labels), needs)


SET = DataSet(
    name="flowers",
    title="Oxford 102 Flowers (Nilsback & Zisserman 2008)",
    source="Get 102flowers.tgz, imagelabels.mat and setid.mat from https://www.robots.ox.ac.uk/~vgg/data/flowers/102/.",
    layout="ROOT holds jpg/, imagelabels.mat and setid.mat.",
    classes=102,
    expected={"train": 1020, "val": 1020, "test": 6149},
    read=_read,
    fetch=fetch_with("Flowers102", _FOLDER, split="test"),
)
