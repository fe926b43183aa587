"""Stanford Dogs (Khosla et al. 2011): 120 breeds. `train_list.mat` and `test_list.mat` hold file_list and labels."""

from __future__ import annotations

from pathlib import Path

from gta.data.datasets.matlab import read_mat
from gta.data.sample import DataSet, Listing, Sample, need

_ADDRESS = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
_ARCHIVES = ("images.tar", "lists.tar")


def _read(root: Path) -> Listing:
    classes: dict[int, str] = {}
    splits: dict[str, list[Sample]] = {}
    lists = root / "lists" if (root / "lists/train_list.mat").is_file() else root
    need(root, ("Images",))
    need(lists, ("train_list.mat", "test_list.mat"))
    for split in ("train", "test"):
        content = read_mat(lists / f"{split}_list.mat")
        pairs = zip(content["file_list"].tolist(), content["labels"].tolist(), strict=True)
        rows = [(str(name), int(number) - 1) for name, number in pairs]
        splits[split] = [Sample(root / "Images" / name, f"Images/{name}", label) for name, label in rows]
        classes |= {label: name.partition("/")[0] for name, label in rows}
    return Listing("", root, tuple(classes[label] for label in range(len(classes))), splits)


def _fetch(root: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    for name in _ARCHIVES:  # the authors publish no checksums; the images are counted and read instead
        download_and_extract_archive(_ADDRESS + name, str(root))


SET = DataSet(
    name="dogs",
    title="Stanford Dogs (Khosla et al. 2011)",
    source=f"Get images.tar and lists.tar from {_ADDRESS}.",
    layout="ROOT holds Images/ and train_list.mat and test_list.mat (in it or in lists/).",
    classes=120,
    expected={"train": 12000, "test": 8580},
    read=_read,
    fetch=_fetch,
)
