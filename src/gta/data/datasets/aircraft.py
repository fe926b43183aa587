"""FGVC-Aircraft 2013b (Maji et al. 2013, arXiv 1306.5151): 100 variants. Read by torchvision's loader.

Train is the official trainval, as in the fine-tuning papers; the official val is part of it.
"""

from __future__ import annotations

from pathlib import Path

from gta.data.datasets.vision import fetch_with, read_with
from gta.data.sample import DataSet, Listing


def _read(root: Path) -> Listing:
    splits = {"train": {"split": "trainval"}, "test": {"split": "test"}}
    needs = ("data/images", "data/variants.txt", *(f"data/images_variant_{s}.txt" for s in ("trainval", "test")))
    return read_with(
        "FGVCAircraft", "fgvc-aircraft-2013b", root, splits, lambda data: (data._image_files, data._labels), needs
    )


SET = DataSet(
    name="aircraft",
    title="FGVC-Aircraft 2013b (Maji et al. 2013)",
    source="Get fgvc-aircraft-2013b.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/.",
    layout="ROOT is fgvc-aircraft-2013b/ (or the folder above it) with data/images/, data/variants.txt and "
    "data/images_variant_trainval.txt and …_test.txt.",
    classes=100,
    expected={"train": 6667, "test": 3333},
    read=_read,
    fetch=fetch_with("FGVCAircraft", split="test"),
)
