"""Published data sets, from archives in their authors' layouts."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gta import GtaError
from gta.cli import main
from gta.data.datasets import DATASETS, list_data, resolved
from gta.data.images import open_mask
from gta.data.reading import read_photos
from gta.data.sample import DataSet, Listing, Sample
from gta.training.measure_run import evaluate_run
from gta.training.run_folder import read_options
from tests.data import archives

NAMED = "cub cars aircraft dogs pets flowers food101 dtd eurosat pcam".split()
COUNTS = {
    "cub": {"train": 6, "test": 4},
    "cars": {"train": 4, "test": 2},
    "aircraft": {"train": 4, "test": 2},
    "dogs": {"train": 4, "test": 2},
    "pets": {"train": 4, "test": 2},
    "flowers": {"train": 2, "val": 2, "test": 2},
    "food101": {"train": 4, "test": 2},
    "dtd": {"train": 2, "val": 2, "test": 2},
    "eurosat": {"train": 8, "test": 2},
    "pcam": {"train": 4, "val": 2, "test": 2},
}
OFFICIAL = {
    "cub": (200, 5994, 5794), "cars": (196, 8144, 8041), "aircraft": (100, 6667, 3333), "dogs": (120, 12000, 8580),
    "pets": (37, 3680, 3669), "flowers": (102, 1020, 6149), "food101": (101, 75750, 25250), "dtd": (47, 1880, 1880),
    "eurosat": (10, 21600, 5400), "pcam": (2, 262144, 32768),
}  # fmt: skip
NEEDS = {"pcam": "h5py"}


def test_the_documents_name_every_set():
    table = (Path(__file__).parents[2] / "docs/data.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)[`:]", table, re.MULTILINE)) == sorted(DATASETS)


def made(name, root):
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    return getattr(archives, name)(root)


@pytest.fixture
def small(monkeypatch):
    """Expect the counts of the archives made here, and of classes two."""
    for name, counts in COUNTS.items():
        classes = 102 if name == "flowers" else 2  # torchvision knows the names of all flowers
        monkeypatch.setitem(DATASETS._entries, name, replace(DATASETS[name], expected=counts, classes=classes))


@pytest.mark.parametrize("name", NAMED)
def test_the_official_layout_is_read_with_its_split(tmp_path, small, name):
    root = made(name, tmp_path / "anywhere")
    listing = list_data(f"{name}:{root}")
    assert {k: len(v) for k, v in listing.splits.items()} == COUNTS[name]
    every = [s for samples in listing.splits.values() for s in samples]
    assert all(s.path == listing.root / s.name and s.path.is_file() for s in every)
    assert len({s.name for s in every}) == len(every)
    for split, samples in listing.splits.items():
        assert sorted({s.label for s in samples}) == [0, 1], split
    if name == "flowers":
        return
    photos = read_photos(f"{name}:{root}")
    assert len(photos.test) == COUNTS[name]["test"]
    assert len(photos.train) + (len(photos.val) if "val" not in COUNTS[name] else 0) == COUNTS[name]["train"]


@pytest.mark.parametrize("name", NAMED)
def test_official_counts(name):
    of = DATASETS[name]
    assert (of.classes, of.expected["train"], of.expected["test"]) == OFFICIAL[name]


@pytest.mark.parametrize("name", NAMED)
def test_another_count_than_the_official_is_told_with_where_to_get_it(tmp_path, name):
    root = made(name, tmp_path / "part")
    with pytest.raises(GtaError) as refusal:
        list_data(f"{name}:{root}")
    for word in (f"{COUNTS[name]['train']} train images", f"{OFFICIAL[name][1]:,}", "not the whole", "CSV"):
        assert word in str(refusal.value)


@pytest.mark.parametrize("name", NAMED)
def test_another_folder_is_refused_with_what_it_must_hold(tmp_path, name):
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(GtaError) as refusal:
            list_data(f"{name}:{root}")
        assert DATASETS[name].layout in str(refusal.value)
        assert DATASETS[name].source in str(refusal.value)
        assert ("--download" in str(refusal.value)) == (name != "cars")
    with pytest.raises(GtaError, match=f"{name}:ROOT"):
        list_data(f"{name}:")


def test_listed_images_that_are_not_there_are_told(tmp_path, small):
    root = archives.cub(tmp_path)
    next((root / "CUB_200_2011/images").rglob("*_0004_4.jpg")).unlink()
    with pytest.raises(GtaError, match=r"1 images that are not there, images/.*_0004_4\.jpg"):
        list_data(f"cub:{root}")


def test_loaders_take_the_folder_by_its_own_name_too(tmp_path, small):
    archives.aircraft(tmp_path / "fgvc-aircraft-2013b")
    archives.dtd(tmp_path / "dtd")
    assert list_data(f"aircraft:{tmp_path}").root == tmp_path / "fgvc-aircraft-2013b"
    assert list_data(f"aircraft:{tmp_path / 'fgvc-aircraft-2013b'}").root == tmp_path / "fgvc-aircraft-2013b"
    assert list_data(f"dtd:{tmp_path}").root == tmp_path / "dtd"
    assert list_data(f"dtd:{tmp_path / 'dtd'}").classes == ("banded", "zigzagged")


def test_labels_are_the_lists_labels(tmp_path, small):
    aircraft = list_data(f"aircraft:{archives.aircraft(tmp_path / 'a')}")
    assert aircraft.classes == ("707-320", "Boeing 717")
    assert [(s.name, s.label) for s in aircraft.splits["test"]] == [
        ("data/images/0000004.jpg", 0),
        ("data/images/0000005.jpg", 1),
    ]
    cub = list_data(f"cub:{archives.cub(tmp_path / 'c')}")
    assert cub.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    assert all(cub.classes[s.label] in s.name for s in cub.splits["train"])
    assert [s.name[-10:] for s in cub.splits["test"][:2]] == ["0003_3.jpg", "0004_4.jpg"]


def test_cars_in_one_folder_take_the_published_lists(tmp_path, small):
    """Batch-Spectral-Shrinkage numbers the cars as car_ims.tgz does."""
    root = archives.car_ims(tmp_path / "cars")
    listing = list_data(f"cars:{root}")
    assert listing.classes == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    assert [(s.name, s.label) for s in listing.splits["test"]] == [("car_ims/000003.jpg", 0), ("car_ims/000006.jpg", 1)]
    (tmp_path / "list.txt").write_text("train/1/000002.jpg\ntrain/2/000004.jpg\n")
    photos = read_photos(f"cars:{root}", subset_list=tmp_path / "list.txt")
    assert [s.name for s in photos.train] == ["car_ims/000002.jpg", "car_ims/000004.jpg"]


def test_eurosat_is_split_alike_from_either_archive(tmp_path, small):
    root = archives.eurosat(tmp_path)
    first = list_data(f"eurosat:{root}")
    (root / "2750").rename(root / "EuroSAT_RGB")
    second = list_data(f"eurosat:{root}")
    assert [s.name for s in first.splits["test"]] == [s.name for s in second.splits["test"]]
    assert first.splits["test"][0].name.startswith("AnnualCrop/")


def test_what_is_missing_is_named(tmp_path, small):
    root = archives.cars(tmp_path / "cars")
    whole = list_data(f"cars:{root}")
    (root / "cars_test_annos_withlabels.mat").rename(root / "devkit/cars_test_annos_withlabels.mat")
    assert list_data(f"cars:{root}") == whole  # many keep it there
    (root / "devkit/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(GtaError, match=r"no cars_test_annos_withlabels\.mat in .*mirrors carry"):
        list_data(f"cars:{root}")
    pets = archives.pets(tmp_path / "pets")
    shutil.rmtree(pets / "images")
    (pets / "annotations/test.txt").unlink()
    with pytest.raises(GtaError, match=r"there is no images and no annotations/test\.txt in .*images\.tar\.gz"):
        list_data(f"pets:{pets}")


def test_masks_of_birds_follow_the_majority_and_of_pets_the_trimap(tmp_path, small):
    bird = list_data(f"cub:{archives.cub(tmp_path / 'c')}").splits["test"][0]
    inside = np.asarray(open_mask(bird.mask, bird.mask_kind)) > 0
    assert inside.sum() == 2 * 3
    assert inside[5:7, 5:8].all()
    pet = list_data(f"pets:{archives.pets(tmp_path / 'p')}").splits["test"][0]
    inside = np.asarray(open_mask(pet.mask, pet.mask_kind)) > 0
    assert inside.sum() == 6 * 7
    assert inside[4:10, 5:12].all()
    shutil.rmtree(tmp_path / "c/segmentations")
    assert list_data(f"cub:{tmp_path / 'c'}").splits["test"][0].mask is None


def test_medmnist_by_flag(tmp_path, monkeypatch):
    from gta.data.datasets import medmnist

    root = archives.medmnist(tmp_path)
    with pytest.raises(GtaError, match="4 train images where the official set has 546"):
        list_data(f"medmnist:breastmnist:{root}")
    whole = medmnist.data_set
    monkeypatch.setattr(
        medmnist,
        "data_set",
        lambda flag, about: replace(whole(flag, about), expected={"train": 4, "val": 2, "test": 2}),
    )
    listing = list_data(f"medmnist:breastmnist:{root}")
    assert listing.classes == ("malignant", "normal, benign")
    with np.load(root / "breastmnist.npz") as arrays, Image.open(listing.splits["test"][0].path) as image:
        assert (np.asarray(image) == arrays["test_images"][0]).all()
    (root / "breastmnist.npz").unlink()  # once unpacked, the images are enough
    assert list_data(f"medmnist:breastmnist:{root}") == listing
    for flag, word in (("chestmnist", "several labels"), ("nomnist", "bloodmnist"), ("breastmnist_99", "_224")):
        with pytest.raises(GtaError, match=word):
            list_data(f"medmnist:{flag}")


def test_any_data_set_of_the_hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    folder = tmp_path / "set"
    folder.mkdir()
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["b/b", "a"]), "note": datasets.Value("string")}
    )
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        for i in range(count):
            archives.picture(tmp_path / f"{split}{i}.jpg", i)
        paths = [str(tmp_path / f"{split}{i}.jpg") for i in range(count)]
        columns = {"img": paths, "label": [i % 2 for i in range(count)], "note": [""] * count}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    listing = list_data(f"hf:{folder}")
    assert listing.classes == ("b/b", "a")
    assert {k: [s.label for s in v] for k, v in listing.splits.items()} == {
        "train": [0, 0, 1, 1],
        "val": [0, 1],
        "test": [0, 1],
    }
    first = listing.splits["test"][0].path
    assert first.read_bytes() == (tmp_path / "test0.jpg").read_bytes()  # the file itself, not compressed again
    assert first.suffix == ".jpeg"
    path = folder / "test-00000-of-00001.parquet"
    secret = {"img": [str(tmp_path / "test0.jpg")], "label": [-1], "note": [""]}
    datasets.Dataset.from_dict(secret, features=features).to_parquet(path)
    assert set(list_data(f"hf:{folder}").splits) == {"train", "val"}  # as ImageNet's test images are published
    with pytest.raises(GtaError, match=r"'note' is no column of type ClassLabel.*\?label=COLUMN"):
        list_data(f"hf:{folder}?label=note")
    with pytest.raises(GtaError, match="config, image, label"):
        list_data(f"hf:{folder}?labels=note")


def test_a_table_of_paths(tmp_path):
    for i in range(6):
        archives.picture(tmp_path / f"images/{i}.jpg", i)
    archives.grey(tmp_path / "m.png", np.full(archives.SIZE[::-1], 255))
    table = tmp_path / "birds.csv"
    rows = [f"images/{i}.jpg,{'wren' if i % 2 else 'owl'},{'test' if i > 3 else 'train'}," for i in range(6)]
    table.write_text("path,label,split,mask\n" + "\n".join(rows) + "m.png\n")
    listing = list_data(table)
    assert listing.classes == ("owl", "wren")
    assert [(s.name, s.label, s.mask) for s in listing.splits["test"]] == [
        ("images/4.jpg", 0, None),
        ("images/5.jpg", 1, tmp_path / "m.png"),
    ]
    photos = read_photos(table)
    assert [len(s) for s in (photos.train, photos.val, photos.test)] == [2, 2, 2]
    table.write_text("path,label\n" + "".join(f"images/{i}.jpg,{i % 2}\n" for i in range(6)))
    assert {k: len(v) for k, v in list_data(table).splits.items()} == {"train": 6}
    for text, word in (
        ("file,label\na,b\n", "path,label"),
        ("path,label,split\na.jpg,b,dev\n", "line 2: split must be .*'dev'"),
        ("path,label\na.jpg,b\na.jpg,c\n", "line 3: 'a.jpg' is in line 2"),
        ("path,label\na.jpg,\n", "line 2: path or label is empty"),
        ("path,label,split\na.jpg,b,test\n", "no training image"),
    ):
        table.write_text(text)
        with pytest.raises(GtaError, match=word):
            list_data(table)
    with pytest.raises(GtaError, match=r"nothing\.csv cannot be read: No such file"):
        list_data(tmp_path / "nothing.csv")


def test_names_nobody_knows(tmp_path):
    with pytest.raises(GtaError, match=r"must be one of aircraft, cars, .*, got 'birds'"):
        list_data(f"birds:{tmp_path}")
    with pytest.raises(GtaError, match=r"--download fetches NAME:ROOT, .*pets"):
        list_data(tmp_path, download=True)
    with pytest.raises(GtaError, match="no folder called train"):
        list_data("/nowhere/12:30")  # a colon in a path is no name


def test_specs_mean_the_same_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolved("photos") == str(tmp_path / "photos")
    assert resolved("cub:birds") == f"cub:{tmp_path / 'birds'}"
    assert resolved("medmnist:pathmnist:m") == f"medmnist:pathmnist:{tmp_path / 'm'}"
    assert [resolved(s) for s in ("medmnist:pathmnist", "hf:user/name?label=x")] == [
        "medmnist:pathmnist",
        "hf:user/name?label=x",
    ]


def test_downloads_come_from_the_official_addresses_once(tmp_path, small, monkeypatch):
    import torchvision.datasets.utils as utils

    fetched = []

    def fetch(address, folder, md5=None, **_):
        fetched.append((address.rsplit("/", 1)[1], md5))
        if len(fetched) == 1:
            archives.cub(tmp_path / "birds")

    monkeypatch.setattr(utils, "download_and_extract_archive", fetch)
    for _ in range(2):
        assert len(list_data(f"cub:{tmp_path / 'birds'}", download=True).splits["train"]) == 6
    assert fetched == [
        ("CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),
        ("segmentations.tgz", "4d47ba1228eae64f2fa547c47bc65255"),
    ]
    with pytest.raises(GtaError, match="server is gone"):
        list_data(f"cars:{tmp_path}", download=True)

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(utils, "download_and_extract_archive", offline)
    with pytest.raises(GtaError, match=r"dogs could not be downloaded.*no route to host.*images\.tar"):
        list_data(f"dogs:{tmp_path / 'dogs'}", download=True)


def test_torchvisions_downloads_end_up_in_the_given_folder(tmp_path, small, monkeypatch):
    from torchvision.datasets import oxford_iiit_pet

    def fetch(address, download_root, md5=None):
        archives.pets(tmp_path / "given")
        assert (tmp_path / "given").samefile(download_root)

    monkeypatch.setattr(oxford_iiit_pet, "download_and_extract_archive", fetch)
    assert len(list_data(f"pets:{tmp_path / 'given'}", download=True).splits["test"]) == 2


def test_a_named_set_trains_and_evaluates(tmp_path, small, source_file, monkeypatch):
    """From anywhere: the config names the set's folder absolutely; the trimaps feed the attention measures."""
    monkeypatch.chdir(tmp_path)
    archives.pets(tmp_path / "pets")
    (tmp_path / "list.txt").write_text("american_bulldog_1.jpg 1\nAbyssinian_2.jpg 0\n")
    words = ["--source", str(source_file), "--image-size", "40", "--epochs", "1", "--batch-size", "2"]
    assert main(["train", "--data", "pets:pets", "--subset-list", "list.txt", "--out", "run", *words]) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert [results[f"{split}_images"] for split in ("train", "val", "test")] == [2, 0, 2]
    assert 0 < results["object_mass"] < 1
    options = read_options(tmp_path / "run")
    assert (options.data, options.subset_list) == (f"pets:{tmp_path / 'pets'}", str(tmp_path / "list.txt"))
    measures = evaluate_run(tmp_path / "run")
    assert measures["object_mass"] == pytest.approx(results["object_mass"], rel=1e-5)
    assert evaluate_run(tmp_path / "run", split="train")["images"] == 2


def test_a_set_added_at_run_time_is_checked_and_trained_on(tmp_path, source_file, capsys):
    def read(root):
        splits = {}
        for row in (root / "list.txt").read_text().splitlines():
            split, name, label = row.split()
            splits.setdefault(split, []).append(Sample(root / name, name, int(label)))
        return Listing(root, ("owl", "wren"), splits)

    root = tmp_path / "anywhere"
    rows = [f"{split} {split}{i}.png {i % 2}" for split, count in (("train", 4), ("val", 2), ("test", 2))
            for i in range(count)]  # fmt: skip
    archives.lines(root / "list.txt", *rows)
    for i, row in enumerate(rows):
        archives.picture(root / row.split()[1], i)
    expected = {"train": 4, "val": 2, "test": 2}
    DATASETS.add("mine", DataSet("my own birds", "Ask me.", "ROOT holds list.txt.", 2, expected, read))
    try:
        assert main(["data", "check", f"mine:{root}", "--json", "--pictures", str(tmp_path / "sheet.png")]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["data"], found["classes"], found["train_images"]) == (f"mine:{root}", 2, 4)
        words = ["--source", str(source_file), "--image-size", "40", "--epochs", "1", "--batch-size", "2"]
        assert main(["train", "--data", f"mine:{root}", "--out", str(tmp_path / "run"), *words]) == 0
        results = json.loads((tmp_path / "run/results.json").read_text())
        assert [results[f"{split}_images"] for split in expected] == [4, 2, 2]
        (root / "list.txt").unlink()
        assert main(["data", "check", f"mine:{root}"]) == 2
        assert "cannot be read as my own birds" in capsys.readouterr().err
        with pytest.raises(GtaError, match=r"one of .*, mine, got 'birds'"):
            list_data(f"birds:{root}")
    finally:
        DATASETS.remove("mine")
