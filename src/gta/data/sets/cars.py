"""Stanford Cars (Krause et al. 2013): 196 makes and models. torchvision's loader reads the devkit's .mat lists."""

from __future__ import annotations

from pathlib import Path

from gta.data.listing import DataSet, Listing
from gta.data.sets.matlab import need_scipy
from gta.data.sets.vision import read_with


def _read(root: Path) -> Listing:
    from torchvision.datasets import StanfordCars

    need_scipy()
    return read_with(
        StanfordCars,
        "stanford_cars",
        root,
        {"train": {"split": "train"}, "test": {"split": "test"}},
        lambda data: ([path for path, _ in data._samples], [label for _, label in data._samples]),
    )


SET = DataSet(
    name="cars",
    title="Stanford Cars (Krause et al. 2013)",
    source="The authors' server is gone, so nothing can be downloaded here; mirrors carry cars_train.tgz, "
    "cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat under these names.",
    layout="ROOT holds cars_train/, cars_test/, devkit/ (cars_train_annos.mat, cars_meta.mat) and "
    "cars_test_annos_withlabels.mat.",
    classes=196,
    expected={"train": 8144, "test": 8041},
    read=_read,
)


def list_set(where: str, download: bool) -> Listing:
    """Official split; the set has no masks."""
    return SET.open(where, download)
