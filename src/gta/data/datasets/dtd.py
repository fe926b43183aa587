"""Describable Textures (Cimpoi et al. 2014): 47 textures. The first of ten official splits, by torchvision's loader."""

from __future__ import annotations

from pathlib import Path

from gta.data.datasets.vision import fetch_with, read_with
from gta.data.sample import DataSet, Listing


def _read(root: Path) -> Listing:
    splits = {split: {"split": split} for split in ("train", "val", "test")}
    needs = ("images", *(f"labels/{split}1.txt" for split in splits))
    return read_with("DTD", "dtd/dtd", root, splits, lambda data: (data._image_files, data._labels), needs)


SET = DataSet(
    name="dtd",
    title="the Describable Textures Dataset (Cimpoi et al. 2014)",
    source="Get dtd-r1.0.1.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/dtd/.",
    layout="ROOT is dtd/ (or a folder above it) with images/ and labels/train1.txt, val1.txt and test1.txt.",
    classes=47,
    expected={"train": 1880, "val": 1880, "test": 1880},
    read=_read,
    fetch=fetch_with("DTD", split="test"),  # unpacks to ROOT/dtd/dtd
)
