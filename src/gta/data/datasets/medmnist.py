"""MedMNIST v3 (Yang et al. 2023, Scientific Data 10:41): medical images by flag, `medmnist:pathmnist[_SIZE][:ROOT]`.

ROOT/FLAG.npz holds {train,val,test}_{images,labels}; without ROOT it is ~/.medmnist, as in the authors' package. The
images are written out as PNG files once, to ROOT/FLAG-unpacked. Counts, class names and checksums in `medmnist.json`
are those of the authors' package medmnist 3.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from gta.data.datasets.unpacked import Item, unpacked
from gta.data.sample import DataSet, Listing
from gta.errors import GtaError

_ADDRESS = "https://zenodo.org/records/10519652/files/{}.npz?download=1"


def list_set(where: str, download: bool) -> Listing:
    """Official train, val and test of one flag; no masks.

    Raises:
        GtaError: an unknown flag, or as `DataSet.open`.
    """
    flag, _, root = where.partition(":")
    known = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    name, _, size = flag.partition("_")
    if name == "chestmnist":
        raise GtaError("medmnist:chestmnist gives an image several labels; this package trains on one per image.")
    if name not in known or f"_{size}" not in ("_", *known[name]["md5"]):
        raise GtaError(
            f"--data medmnist:{where}: {flag!r} is none of {', '.join(known)}, alone (28 px) or with _64, _128 or _224 "
            "behind it."
        )
    return data_set(flag, known[name]).open(root or str(Path.home() / ".medmnist"), download)


def data_set(flag: str, about: dict[str, Any]) -> DataSet:
    """The data set of one flag, from its entry in medmnist.json."""
    size = flag[flag.index("_") :] if "_" in flag else ""
    return DataSet(
        name=f"medmnist:{flag}",
        title=f"MedMNIST v3's {flag}",
        source=f"Get {flag}.npz from https://zenodo.org/records/10519652.",
        layout=f"ROOT holds {flag}.npz.",
        classes=len(about["classes"]),
        expected=about["images"],
        read=partial(_read, flag=flag, classes=about["classes"]),
        fetch=partial(_fetch, flag=flag, md5=about["md5"][size]),
    )


def _read(root: Path, flag: str, classes: list[str]) -> Listing:
    return unpacked(root / f"{flag}-unpacked", classes, lambda: _items(root / f"{flag}.npz"))


def _items(path: Path) -> Iterator[Item]:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        for split in ("train", "val", "test"):
            labels = arrays[f"{split}_labels"].reshape(len(arrays[f"{split}_labels"]), -1)
            for pixels, label in zip(arrays[f"{split}_images"], labels[:, 0], strict=True):
                file = BytesIO()
                Image.fromarray(pixels).save(file, "png")
                yield split, int(label), ".png", file.getvalue()


def _fetch(root: Path, flag: str, md5: str) -> None:
    from torchvision.datasets.utils import download_url

    download_url(_ADDRESS.format(flag), str(root), filename=f"{flag}.npz", md5=md5)
