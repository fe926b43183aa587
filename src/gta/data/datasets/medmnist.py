"""MedMNIST v3 (Yang et al. 2023, Scientific Data 10:41): medical images by flag, `medmnist:pathmnist[_SIZE][:ROOT]`.

ROOT/FLAG.npz holds {train,val,test}_{images,labels}; without ROOT it is ~/.medmnist, as in the authors' package. The
images are written out as PNG files once, to ROOT/FLAG-unpacked. Counts, class names and checksums in `medmnist.json`
are those of the authors' package medmnist 3.0 (not used: it needs pandas, scikit-learn and scikit-image).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets.utils import download_url

from gta.data.readers.unpacked import Item, png, unpacked
from gta.data.sample import SPLITS, DataSet, Listing
from gta.errors import GtaError


class MedMNIST:
    """The sets by flag: official train, val and test, no masks."""

    def open(self, name: str, where: str, download: bool = False) -> Listing:
        """List FLAG[_SIZE][:ROOT], see `DataSet.open`; GtaError also for an unknown flag."""
        flag, _, root = where.partition(":")
        known = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
        kind, _, size = flag.partition("_")
        if kind == "chestmnist":
            raise GtaError(f"{name}:chestmnist gives an image several labels; this package trains on one per image.")
        if kind not in known or f"_{size}" not in ("_", *known[kind]["md5"]):
            raise GtaError(
                f"--data {name}:{where}: the flag must be one of {', '.join(known)}, alone (28 px) or with _64, _128 "
                f"or _224 behind it, got {flag!r}."
            )
        return data_set(flag, known[kind]).open(f"{name}:{flag}", root or str(Path.home() / ".medmnist"), download)

    def place(self, where: str) -> tuple[str, str]:
        """The flag, and ROOT if there is one."""
        flag, colon, root = where.partition(":")
        return f"{flag}{colon}", root


def data_set(flag: str, about: dict[str, Any]) -> DataSet:
    """The data set of one flag, from its entry in medmnist.json."""

    def fetch(root: Path) -> None:
        address = f"https://zenodo.org/records/10519652/files/{flag}.npz?download=1"
        download_url(address, str(root), filename=f"{flag}.npz", md5=about["md5"][flag[len(flag.split("_")[0]) :]])

    return DataSet(
        title=f"MedMNIST v3's {flag}",
        source=f"Get {flag}.npz from https://zenodo.org/records/10519652.",
        layout=f"ROOT holds {flag}.npz.",
        classes=len(about["classes"]),
        expected=about["images"],
        read=lambda root: unpacked(root / f"{flag}-unpacked", about["classes"], _items(root / f"{flag}.npz")),
        fetch=fetch,
    )


def _items(path: Path) -> Iterator[Item]:
    with np.load(path, allow_pickle=False) as arrays:
        for split in SPLITS:
            labels = arrays[f"{split}_labels"].reshape(len(arrays[f"{split}_labels"]), -1)
            for pixels, label in zip(arrays[f"{split}_images"], labels[:, 0], strict=True):
                yield split, int(label), ".png", png(pixels)


SET = MedMNIST()
