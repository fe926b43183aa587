"""Food-101 (Bossard et al. 2014): 101 dishes, train labels partly wrong by design."""

from torchvision.datasets import Food101

from gta.data.readers.vision import Torchvision
from gta.data.sample import DataSet

_FILES = Torchvision(
    Food101,
    "food-101",
    splits={split: {"split": split} for split in ("train", "test")},
    needs=("images", "meta/train.json", "meta/test.json"),
)
SET = DataSet(
    title="Food-101 (Bossard et al. 2014)",
    source="Get food-101.tar.gz from https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/.",
    layout="ROOT is food-101/ (or the folder above it) with images/ and meta/train.json and meta/test.json.",
    classes=101,
    expected={"train": 75750, "test": 25250},
    read=_FILES.read,
    fetch=_FILES.fetch,
)
