"""Describable Textures (Cimpoi et al. 2014): 47 textures. The first of ten official splits."""

from torchvision.datasets import DTD

from gta.data.readers.vision import Torchvision
from gta.data.sample import DataSet

_FILES = Torchvision(
    DTD,
    "dtd/dtd",  # where a download unpacks to
    splits={split: {"split": split} for split in ("train", "val", "test")},
    needs=("images", "labels/train1.txt", "labels/val1.txt", "labels/test1.txt"),
)
SET = DataSet(
    title="the Describable Textures Dataset (Cimpoi et al. 2014)",
    source="Get dtd-r1.0.1.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/dtd/.",
    layout="ROOT is dtd/ (or a folder above it) with images/ and labels/train1.txt, val1.txt and test1.txt.",
    classes=47,
    expected={"train": 1880, "val": 1880, "test": 1880},
    read=_FILES.read,
    fetch=_FILES.fetch,
)
