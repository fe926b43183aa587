"""Stanford Cars (Krause et al. 2013): 196 makes and models, in either of the two forms the authors published.

`cars_train/` and `cars_test/` with the lists of `devkit/`, or `car_ims/` and `cars_annos.mat`, which hold the same
images and split under other numbers: those that the published lists of training images use.
"""

from __future__ import annotations

from pathlib import Path

from gta.data.datasets.matlab import read_mat
from gta.data.sample import DataSet, Listing, Sample, need

_FOLDER, _TEST = "stanford_cars", "cars_test_annos_withlabels.mat"


def _read(root: Path) -> Listing:
    base = root / _FOLDER if (root / _FOLDER).is_dir() else root
    if (base / "cars_annos.mat").is_file():
        return _read_joint(base)
    need(base, ("cars_train", "cars_test", "devkit/cars_train_annos.mat", "devkit/cars_meta.mat"))
    test = next((f for f in (base / _TEST, base / "devkit" / _TEST) if f.is_file()), None)
    if test is None:
        raise FileNotFoundError(f"there is no {_TEST} in {base} (the devkit's cars_test_annos.mat has no labels)")
    splits = {
        split: [
            Sample(base / f"cars_{split}" / row["fname"], f"cars_{split}/{row['fname']}", int(row["class"]) - 1)
            for row in read_mat(annotations)["annotations"]
        ]
        for split, annotations in (("train", base / "devkit/cars_train_annos.mat"), ("test", test))
    }
    return Listing("", base, _names(base / "devkit/cars_meta.mat"), splits)


def _read_joint(base: Path) -> Listing:
    content = read_mat(base / "cars_annos.mat")
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in content["annotations"]:
        name = str(row["relative_im_path"])
        splits["test" if row["test"] else "train"].append(Sample(base / name, name, int(row["class"]) - 1))
    return Listing("", base, _names(base / "cars_annos.mat"), splits)


def _names(path: Path) -> tuple[str, ...]:
    return tuple(map(str, read_mat(path)["class_names"]))


SET = DataSet(
    name="cars",
    title="Stanford Cars (Krause et al. 2013)",
    source="The authors' server is gone, so nothing can be downloaded here; mirrors carry cars_train.tgz, "
    "cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat, or car_ims.tgz and cars_annos.mat, under these "
    "names.",
    layout="ROOT holds cars_train/, cars_test/, devkit/ (cars_train_annos.mat, cars_meta.mat) and "
    "cars_test_annos_withlabels.mat (in it or in devkit/); or car_ims/ and cars_annos.mat, as the published lists of "
    "images need it.",
    classes=196,
    expected={"train": 8144, "test": 8041},
    read=_read,
)
