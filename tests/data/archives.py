"""Small archives in exactly the layouts that the data sets' authors publish, with a few images each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (23, 19)


def picture(path: Path, number: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def grey(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def lines(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def cub(root: Path) -> Path:
    """2 classes of 3 train and 2 test images; segmentations.tgz was unpacked beside CUB_200_2011."""
    base, kinds = root / "CUB_200_2011", ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    names = [f"{kind}/{kind[4:]}_{i:04}_{i}.jpg" for kind in kinds for i in range(5)]
    for i, name in enumerate(names):
        picture(base / "images" / name, i)
        shares = np.zeros(SIZE[::-1])
        shares[3:9, 4:11], shares[5:7, 5:8] = 51, 153  # one of five annotators, three of five
        grey(root / "segmentations" / Path(name).with_suffix(".png"), shares)
    lines(base / "classes.txt", *(f"{i} {kind}" for i, kind in enumerate(kinds, 1)))
    lines(base / "images.txt", *(f"{i} {name}" for i, name in enumerate(names, 1)))
    lines(base / "image_class_labels.txt", *(f"{i} {(i - 1) // 5 + 1}" for i in range(1, 11)))
    lines(base / "train_test_split.txt", *(f"{i} {int((i - 1) % 5 < 3)}" for i in range(1, 11)))
    return root


def cars(root: Path) -> Path:
    """2 classes; the devkit's annotations are MATLAB structs of boxes, class and file name."""
    from scipy.io import savemat

    kind = np.dtype([(n, object) for n in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")])
    for split, count, path in (
        ("train", 4, "devkit/cars_train_annos.mat"),
        ("test", 2, "cars_test_annos_withlabels.mat"),
    ):
        rows = [(1, 1, 9, 9, i % 2 + 1, f"{i + 1:05}.jpg") for i in range(count)]
        for i in range(count):
            picture(root / f"cars_{split}" / f"{i + 1:05}.jpg", i + 50 * (split == "test"))
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        savemat(root / path, {"annotations": np.array([rows], dtype=kind)})
    names = np.empty((1, 2), dtype=object)
    names[0, :] = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    return root


def car_ims(root: Path) -> Path:
    """The authors' other form of Stanford Cars: all images in one folder, the split in cars_annos.mat."""
    from scipy.io import savemat

    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    rows = [(f"car_ims/{i + 1:06}.jpg", 1, 1, 9, 9, i // 3 + 1, int(i % 3 == 2)) for i in range(6)]
    for i, row in enumerate(rows):
        picture(root / row[0], i)
    names = np.empty((1, 2), dtype=object)
    names[0, :] = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    annotations = np.array([rows], dtype=np.dtype([(name, object) for name in fields]))
    savemat(root / "cars_annos.mat", {"annotations": annotations, "class_names": names})
    return root


def aircraft(root: Path) -> Path:
    """2 variants, 4 images in trainval (2 of them val) and 2 in test."""
    data = root / "data"
    lines(data / "variants.txt", "707-320", "Boeing 717")
    lines(data / "families.txt", "Boeing 707", "Boeing 717")
    rows = [f"{i:07} {('707-320', 'Boeing 717')[i % 2]}" for i in range(6)]
    for i in range(6):
        picture(data / "images" / f"{i:07}.jpg", i)
    for split, part in (("trainval", rows[:4]), ("train", rows[:2]), ("val", rows[2:4]), ("test", rows[4:])):
        lines(data / f"images_variant_{split}.txt", *part)
    return root


def dogs(root: Path) -> Path:
    """2 breeds; file_list is a cell array, labels start at 1."""
    from scipy.io import savemat

    breeds = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
    for split, count, first in (("train", 4, 0), ("test", 2, 4)):
        names = [f"{breeds[i % 2]}/{breeds[i % 2][:9]}_{i}.jpg" for i in range(first, first + count)]
        for i, name in enumerate(names, first):
            picture(root / "Images" / name, i)
        cells = np.empty((count, 1), dtype=object)
        cells[:, 0] = names
        labels = np.array([[i % 2 + 1] for i in range(count)], dtype=float)
        savemat(root / f"{split}_list.mat", {"file_list": cells, "annotation_list": cells, "labels": labels})
    return root


def pets(root: Path) -> Path:
    """2 breeds; trimaps of 1 pet, 2 background, 3 border."""
    for split, numbers in (("trainval", (1, 2, 3, 4)), ("test", (5, 6))):
        rows = []
        for i in numbers:
            name = f"{('Abyssinian', 'american_bulldog')[i % 2]}_{i}"
            picture(root / "images" / f"{name}.jpg", i)
            trimap = np.full(SIZE[::-1], 2)
            trimap[4:10, 5:12], trimap[5:9, 6:11] = 3, 1
            grey(root / "annotations" / "trimaps" / f"{name}.png", trimap)
            rows.append(f"{name} {i % 2 + 1} {i % 2 + 1} 1")
        lines(root / "annotations" / f"{split}.txt", *rows)
    return root


def flowers(root: Path) -> Path:
    """Images 1 to 6 of two of the 102 kinds."""
    from scipy.io import savemat

    for i in range(1, 7):
        picture(root / "jpg" / f"image_{i:05}.jpg", i)
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]])})
    savemat(root / "setid.mat", {"trnid": np.array([[1, 2]]), "valid": np.array([[3, 4]]), "tstid": np.array([[5, 6]])})
    return root


def food101(root: Path) -> Path:
    listed = {
        "train": {"apple_pie": ["apple_pie/1", "apple_pie/2"], "waffles": ["waffles/4", "waffles/5"]},
        "test": {"apple_pie": ["apple_pie/3"], "waffles": ["waffles/6"]},
    }
    for split, classes in listed.items():
        for names in classes.values():
            for name in names:
                picture(root / "images" / f"{name}.jpg", int(name[-1]))
        (root / "meta").mkdir(parents=True, exist_ok=True)
        (root / "meta" / f"{split}.json").write_text(json.dumps(classes))
    return root


def dtd(root: Path) -> Path:
    for i, split in enumerate(("train", "val", "test")):
        names = [f"{c}/{c}_{i:04}.jpg" for c in ("banded", "zigzagged")]
        for k, name in enumerate(names):
            picture(root / "images" / name, 10 * i + k)
        lines(root / "labels" / f"{split}1.txt", *names)
    return root


def eurosat(root: Path) -> Path:
    for k, c in enumerate(("AnnualCrop", "SeaLake")):
        for i in range(5):
            picture(root / "2750" / c / f"{c}_{i + 1}.jpg", 10 * k + i)
    return root


def pcam(root: Path) -> Path:
    import h5py

    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        pixels = np.random.default_rng(count).integers(0, 255, (count, 96, 96, 3), dtype=np.uint8)
        with h5py.File(root / f"camelyonpatch_level_2_split_{split}_x.h5", "w") as file:
            file["x"] = pixels
        with h5py.File(root / f"camelyonpatch_level_2_split_{split}_y.h5", "w") as file:
            file["y"] = (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)
    return root


def medmnist(root: Path, flag: str = "breastmnist") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        arrays[f"{split}_images"] = np.random.default_rng(count).integers(0, 255, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(root / f"{flag}.npz", **arrays)
    return root
