"""FGVC-Aircraft 2013b (Maji et al. 2013, arXiv 1306.5151): 100 variants.

Train is the official trainval, as in the fine-tuning papers; the official val is part of it.
"""

from torchvision.datasets import FGVCAircraft

from gta.data.readers.vision import Torchvision
from gta.data.sample import DataSet

_FILES = Torchvision(
    FGVCAircraft,
    "fgvc-aircraft-2013b",
    splits={"train": {"split": "trainval"}, "test": {"split": "test"}},
    needs=("data/images", "data/variants.txt", "data/images_variant_trainval.txt", "data/images_variant_test.txt"),
)
SET = DataSet(
    title="FGVC-Aircraft 2013b (Maji et al. 2013)",
    source="Get fgvc-aircraft-2013b.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/.",
    layout="ROOT is fgvc-aircraft-2013b/ (or the folder above it) with data/images/, data/variants.txt and "
    "data/images_variant_trainval.txt and …_test.txt.",
    classes=100,
    expected={"train": 6667, "test": 3333},
    read=_FILES.read,
    fetch=_FILES.fetch,
)
