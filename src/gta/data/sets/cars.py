"""Stanford Cars (Krause et al. 2013): 196 makes and models, in either of the two forms the authors published.

`cars_train/`, `cars_test/` and `devkit/` are read by torchvision's loader. `car_ims/` and `cars_annos.mat` hold the
same images and split under other numbers: those that the published lists of training images use.
"""

from __future__ import annotations

from pathlib import Path

from gta.data.listing import DataSet, Listing, Sample
from gta.data.sets.matlab import need_scipy, read_mat
from gta.data.sets.vision import read_with

_FOLDER = "stanford_cars"


def _read(root: Path) -> Listing:
    need_scipy()
    base = root / _FOLDER if (root / _FOLDER).is_dir() else root
    if (base / "cars_annos.mat").is_file():
        return _read_joint(base)
    return read_with(
        "StanfordCars",
        _FOLDER,
        root,
        {"train": {"split": "train"}, "test": {"split": "test"}},
        lambda data: ([path for path, _ in data._samples], [label for _, label in data._samples]),
    )


def _read_joint(base: Path) -> Listing:
    content = read_mat(base / "cars_annos.mat")
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in content["annotations"]:
        name = str(row["relative_im_path"])
        splits["test" if row["test"] else "train"].append(Sample(base / name, name, int(row["class"]) - 1))
    return Listing("", base, tuple(map(str, content["class_names"])), splits)


SET = DataSet(
    name="cars",
    title="Stanford Cars (Krause et al. 2013)",
    source="The authors' server is gone, so nothing can be downloaded here; mirrors carry cars_train.tgz, "
    "cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat, or car_ims.tgz and cars_annos.mat, under these "
    "names.",
    layout="ROOT holds cars_train/, cars_test/, devkit/ (cars_train_annos.mat, cars_meta.mat) and "
    "cars_test_annos_withlabels.mat; or car_ims/ and cars_annos.mat, as the published lists of images need it.",
    classes=196,
    expected={"train": 8144, "test": 8041},
    read=_read,
)
