"""Stanford Dogs (Khosla et al. 2011): 120 breeds. `train_list.mat` and `test_list.mat` hold file_list and labels."""

from pathlib import Path

from gta.data.readers.archives import fetch_archives, need, read_mat
from gta.data.sample import DataSet, Listing, Sample

_ADDRESS = "http://vision.stanford.edu/aditya86/ImageNetDogs/"


def _read(root: Path) -> Listing:
    lists = root / "lists" if (root / "lists/train_list.mat").is_file() else root
    need(root, ("Images",))
    need(lists, ("train_list.mat", "test_list.mat"))
    classes: dict[int, str] = {}
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for split, samples in splits.items():
        content = read_mat(lists / f"{split}_list.mat")
        for name, number in zip(map(str, content["file_list"]), map(int, content["labels"]), strict=True):
            samples.append(Sample(root / "Images" / name, f"Images/{name}", number - 1))
            classes[number - 1] = name.partition("/")[0]
    return Listing(root, tuple(classes[label] for label in range(len(classes))), splits)


SET = DataSet(
    title="Stanford Dogs (Khosla et al. 2011)",
    source=f"Get images.tar and lists.tar from {_ADDRESS}.",
    layout="ROOT holds Images/ and train_list.mat and test_list.mat (in it or in lists/).",
    classes=120,
    expected={"train": 12000, "test": 8580},
    read=_read,
    # Without checksums: the authors publish none; images are counted and read.
    fetch=fetch_archives((_ADDRESS + "images.tar", None), (_ADDRESS + "lists.tar", None)),
)
