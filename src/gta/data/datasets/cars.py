"""Stanford Cars (Krause et al. 2013): 196 makes and models, in either of the two forms the authors published.

`cars_train/` and `cars_test/` with the lists of `devkit/`, or `car_ims/` and `cars_annos.mat`, which hold the same
images and split under other numbers: those that the published lists of training images use. (torchvision's class reads
neither the second form nor a test list that lies in `devkit/`.)
"""

from pathlib import Path

from gta.data.readers.archives import inside, need, read_mat
from gta.data.sample import DataSet, Listing, Sample

_TEST = "cars_test_annos_withlabels.mat"


def _read(root: Path) -> Listing:
    base = inside(root, "stanford_cars")
    meta = base / "cars_annos.mat"
    if meta.is_file():
        rows = [("test" if row["test"] else "train", str(row["relative_im_path"]), row)
                for row in read_mat(meta)["annotations"]]  # fmt: skip
    else:
        meta = base / "devkit/cars_meta.mat"
        need(base, ("cars_train", "cars_test", "devkit/cars_train_annos.mat", "devkit/cars_meta.mat"))
        test = next((f for f in (base / _TEST, base / "devkit" / _TEST) if f.is_file()), None)
        if test is None:
            raise FileNotFoundError(f"there is no {_TEST} in {base} (the devkit's cars_test_annos.mat has no labels)")
        lists = {"train": base / "devkit/cars_train_annos.mat", "test": test}
        rows = [(split, f"cars_{split}/{row['fname']}", row)
                for split, path in lists.items() for row in read_mat(path)["annotations"]]  # fmt: skip
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for split, name, row in rows:
        splits[split].append(Sample(base / name, name, int(row["class"]) - 1))
    return Listing(base, tuple(map(str, read_mat(meta)["class_names"])), splits)


SET = DataSet(
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
