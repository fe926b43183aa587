"""Describable Textures (Cimpoi et al. 2014): 47 textures. The first of ten official splits, by torchvision's loader."""

from __future__ import annotations

from pathlib import Path

from gta.data.listing import DataSet, Listing
from gta.data.sets.vision import read_with


def _read(root: Path) -> Listing:
    from torchvision.datasets import DTD

    splits = {split: {"split": split} for split in ("train", "val", "test")}
    return read_with(DTD, "dtd/dtd", root, splits, lambda data: (data._image_files, data._labels))


def _fetch(root: Path) -> None:
    from torchvision.datasets import DTD

    DTD(str(root), split="test", download=True)  # unpacks to ROOT/dtd/dtd


SET = DataSet(
    name="dtd",
    title="the Describable Textures Dataset (Cimpoi et al. 2014)",
    source="Get dtd-r1.0.1.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/dtd/.",
    layout="ROOT is dtd/ (or a folder above it) with images/ and labels/train1.txt, val1.txt and test1.txt.",
    classes=47,
    expected={"train": 1880, "val": 1880, "test": 1880},
    read=_read,
    fetch=_fetch,
)


def list_set(where: str, download: bool) -> Listing:
    """The first official split; no masks."""
    return SET.open(where, download)
