"""CUB-200-2011 (Wah et al. 2011): 200 kinds of birds with segmentations.

`images.txt`, `image_class_labels.txt` and `train_test_split.txt` give one line per image, "id value".
"""

from pathlib import Path

from gta.data.readers.archives import fetch_archives, inside, need
from gta.data.sample import DataSet, Listing, Sample


def _read(root: Path) -> Listing:
    base = inside(root, "CUB_200_2011")
    need(base, ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"))
    masks = next((f for f in (base / "segmentations", base.parent / "segmentations") if f.is_dir()), base)
    names, labels, training, classes = (
        _column(base / f"{file}.txt") for file in ("images", "image_class_labels", "train_test_split", "classes")
    )
    order = {number: label for label, number in enumerate(classes)}
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for image, name in names.items():
        mask = (masks / name).with_suffix(".png")
        sample = Sample(base / "images" / name, f"images/{name}", order[labels[image]],
                        mask if mask.is_file() else None, "share")  # fmt: skip
        splits["train" if training[image] == "1" else "test"].append(sample)
    return Listing(base, tuple(classes.values()), splits)


def _column(path: Path) -> dict[str, str]:
    rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {key: value.strip() for key, value in rows}


SET = DataSet(
    title="CUB-200-2011 (Wah et al. 2011)",
    source="Get CUB_200_2011.tgz and segmentations.tgz from https://data.caltech.edu/records/65de6-vp158 and "
    "https://data.caltech.edu/records/w9d68-gec53.",
    layout="ROOT is CUB_200_2011/ (or the folder above it) with images.txt, image_class_labels.txt, "
    "train_test_split.txt, classes.txt and images/; for masks also segmentations/, in it or beside it.",
    classes=200,
    expected={"train": 5994, "test": 5794},
    read=_read,
    fetch=fetch_archives(
        ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),
        ("https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz", "4d47ba1228eae64f2fa547c47bc65255"),
    ),
)
