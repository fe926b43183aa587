"""CUB-200-2011 (Wah et al. 2011): 200 kinds of birds with segmentations.

`images.txt`, `image_class_labels.txt` and `train_test_split.txt` give one line per image, "id value".
"""

from __future__ import annotations

from pathlib import Path

from gta.data.sample import DataSet, Listing, Sample, need

_ARCHIVES = (  # address, MD5
    ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),
    ("https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz", "4d47ba1228eae64f2fa547c47bc65255"),
)


def _read(root: Path) -> Listing:
    base = root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root
    masks = next((f / "segmentations" for f in (base, base.parent) if (f / "segmentations").is_dir()), None)
    need(base, ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"))
    names = _column(base / "images.txt")
    labels = _column(base / "image_class_labels.txt")
    training = _column(base / "train_test_split.txt")
    classes = _column(base / "classes.txt")
    order = {number: label for label, number in enumerate(classes)}
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for image, name in names.items():
        mask = None if masks is None else (masks / name).with_suffix(".png")
        splits["train" if training[image] == "1" else "test"].append(
            Sample(
                base / "images" / name,
                f"images/{name}",
                order[labels[image]],
                mask if mask is not None and mask.is_file() else None,
                "share",
            )
        )
    return Listing("", base, tuple(classes.values()), splits)


def _column(path: Path) -> dict[str, str]:
    rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {key: value.strip() for key, value in rows}


def _fetch(root: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    for address, md5 in _ARCHIVES:
        download_and_extract_archive(address, str(root), md5=md5)


SET = DataSet(
    name="cub",
    title="CUB-200-2011 (Wah et al. 2011)",
    source="Get CUB_200_2011.tgz and segmentations.tgz from https://data.caltech.edu/records/65de6-vp158 and "
    "https://data.caltech.edu/records/w9d68-gec53.",
    layout="ROOT is CUB_200_2011/ (or the folder above it) with images.txt, image_class_labels.txt, "
    "train_test_split.txt, classes.txt and images/; for masks also segmentations/, in it or beside it.",
    classes=200,
    expected={"train": 5994, "test": 5794},
    read=_read,
    fetch=_fetch,
)
