"""Oxford-IIIT Pet (Parkhi et al. 2012): 37 breeds of cats and dogs with trimaps."""

from torchvision.datasets import OxfordIIITPet

from gta.data.readers.vision import Torchvision
from gta.data.sample import DataSet

_FILES = Torchvision(
    OxfordIIITPet,
    "oxford-iiit-pet",
    splits={"train": {"split": "trainval"}, "test": {"split": "test"}},
    needs=("images", "annotations/trainval.txt", "annotations/test.txt"),
    files=lambda data: (data._images, data._labels, data._segs),
    mask_kind="trimap",
    archive_folder="oxford-iiit-pet",
)
SET = DataSet(
    title="the Oxford-IIIT Pet data set (Parkhi et al. 2012)",
    source="Get images.tar.gz and annotations.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/pets/.",
    layout="ROOT holds images/ and annotations/ (trainval.txt, test.txt, trimaps/).",
    classes=37,
    expected={"train": 3680, "test": 3669},
    read=_FILES.read,
    fetch=_FILES.fetch,
)
