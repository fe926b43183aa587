"""PatchCamelyon (Veeling et al. 2018, arXiv 1806.03962): 327,680 patches of lymph nodes, tumour or not, 96 px.

Its HDF5 files (x: (n, 96, 96, 3) uint8, y: (n, 1, 1, 1)) are written out as PNG files once, to ROOT/unpacked.
"""

from collections.abc import Iterator
from pathlib import Path

from torchvision.datasets import PCAM

from gta.data.readers.archives import inside
from gta.data.readers.unpacked import Item, png, unpacked
from gta.data.readers.vision import Torchvision
from gta.data.sample import DataSet, Listing
from gta.errors import GtaError

_SPLITS = {"train": "train", "val": "valid", "test": "test"}
_CHUNK = 1024  # images in memory at once


def _read(root: Path) -> Listing:
    base = inside(root, "pcam")
    return unpacked(base / "unpacked", ("no tumour", "tumour"), _items(base))


def _items(base: Path) -> Iterator[Item]:  # torchvision's PCAM opens both files anew for every image
    try:
        import h5py
    except ImportError as error:
        raise GtaError("PCam's files are HDF5, read by h5py: pip install h5py") from error
    for split, theirs in _SPLITS.items():
        name = f"camelyonpatch_level_2_split_{theirs}"
        with h5py.File(base / f"{name}_x.h5") as images, h5py.File(base / f"{name}_y.h5") as labels:
            for start in range(0, len(images["x"]), _CHUNK):
                part = slice(start, start + _CHUNK)
                for pixels, label in zip(images["x"][part], labels["y"][part].reshape(-1), strict=True):
                    yield split, int(label), ".png", png(pixels)


SET = DataSet(
    title="PatchCamelyon (Veeling et al. 2018)",
    source="Get the six camelyonpatch_level_2_split_*.h5.gz from https://zenodo.org/records/2546921 and gunzip them.",
    layout="ROOT holds camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5.",
    classes=2,
    expected={"train": 262144, "val": 32768, "test": 32768},
    read=_read,
    fetch=Torchvision(PCAM, "pcam", {split: {"split": split} for split in _SPLITS}, archive_folder="pcam").fetch,
)
