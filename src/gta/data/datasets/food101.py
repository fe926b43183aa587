"""Food-101 (Bossard et al. 2014): 101 dishes, train labels partly wrong by design. Read by torchvision's loader."""

from __future__ import annotations

from pathlib import Path

from gta.data.datasets.vision import fetch_with, read_with
from gta.data.sample import DataSet, Listing


def _read(root: Path) -> Listing:
    splits = {split: {"split": split} for split in ("train", "test")}
    needs = ("images", "meta/train.json", "meta/test.json")
    return read_with("Food101", "food-101", root, splits, lambda data: (data._image_files, data._labels), needs)


SET = DataSet(
    name="food101",
    title="Food-101 (Bossard et al. 2014)",
    source="Get food-101.tar.gz from https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/.",
    layout="ROOT is food-101/ (or the folder above it) with images/ and meta/train.json and meta/test.json.",
    classes=101,
    expected={"train": 75750, "test": 25250},
    read=_read,
    fetch=fetch_with("Food101", split="test"),
)
