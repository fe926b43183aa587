"""Oxford 102 Flowers (Nilsback & Zisserman 2008): official train, val and test."""

from torchvision.datasets import Flowers102

from gta.data.readers.vision import Torchvision
from gta.data.sample import DataSet

_FILES = Torchvision(
    Flowers102,
    "flowers-102",
    splits={split: {"split": split} for split in ("train", "val", "test")},
    needs=("jpg", "imagelabels.mat", "setid.mat"),
    archive_folder="flowers-102",
)
SET = DataSet(
    title="Oxford 102 Flowers (Nilsback & Zisserman 2008)",
    source="Get 102flowers.tgz, imagelabels.mat and setid.mat from https://www.robots.ox.ac.uk/~vgg/data/flowers/102/.",
    layout="ROOT holds jpg/, imagelabels.mat and setid.mat.",
    classes=102,
    expected={"train": 1020, "val": 1020, "test": 6149},
    read=_FILES.read,
    fetch=_FILES.fetch,
)
