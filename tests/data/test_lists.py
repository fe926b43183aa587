"""Manifests and published lists of training images, and the check of a whole data set."""

from __future__ import annotations

import json
import os
import re
import shutil
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

from gta import GtaError
from gta.cli import main
from gta.data.duplicates import difference_hash, look_alikes
from gta.data.reading import read_photos, write_manifest
from gta.data.sample import Sample


def test_a_manifest_says_which_images_and_brings_them_back(photos, tmp_path):
    out = tmp_path / "half.txt"
    written = write_manifest(str(photos), out, fraction=0.5, seed=3)
    head, digest, *rows = out.read_text().splitlines()
    assert head == "# photos: train, fraction 0.5, seed 3"
    assert digest == f"# 9 images of 3 classes, digest {written.digests['train']}"
    assert [r.split("\t")[:2] for r in rows] == [[s.name, written.classes[s.label]] for s in written.train]
    assert read_photos(photos, subset_list=out).train == written.train
    assert read_photos(photos, subset_list=out).digests["train"] == written.digests["train"]


def test_a_manifest_notices_other_files(photos, tmp_path):
    out = tmp_path / "all.txt"
    write_manifest(str(photos), out)
    Image.new("RGB", (53, 47)).save(photos / "train/class 0/000.jpg")
    with pytest.raises(GtaError, match=r"1 of the 15 lines.*\n  'train/class 0/000\.jpg': another file"):
        read_photos(photos, subset_list=out)


def flat(root, names):
    """Photographs whose file names tell them apart, as in CUB."""
    for name in names:
        path = root / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(crc32(name.encode())).integers(0, 255, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


NAMES = [f"{c}/{c}_{i:04}.png" for c in ("Albatross", "Wren") for i in range(12)]


@pytest.mark.parametrize(
    "line",
    [
        "train/{number}/{file}",  # Batch-Spectral-Shrinkage: paths alone, in folders of its own
        "images/{class}/{file} {number}",  # Transfer-Learning-Library: "path class"
        "train\\{class}\\{file} {class}",
        "train/Boeing 71{number}/{file} {number}",
        "{class}/{file} 00{number}.Boeing {class} 7.7",
        "{file}",
    ],
)
def test_published_lists_are_understood(tmp_path, line):
    root = flat(tmp_path / "birds", NAMES)
    chosen = NAMES[2:5] + NAMES[13:18]
    rows = []
    for name in chosen:
        c, file = name.split("/")
        rows.append(line.format(**{"class": c, "file": file, "number": int(c == "Wren")}))
    (tmp_path / "list.txt").write_text("\n".join(rows) + "\n")
    read = read_photos(root, subset_list=tmp_path / "list.txt")
    assert [s.name for s in read.train] == [f"train/{name}" for name in chosen]
    assert [s.label for s in read.val] == [0, 1]  # from the images that the list leaves
    assert not {s.name for s in read.val} & {s.name for s in read.train}
    (tmp_path / "list.txt").write_text("\n".join(NAMES) + "\n")
    whole = read_photos(root, subset_list=tmp_path / "list.txt")
    assert [len(whole.train), len(whole.val)] == [24, 0]  # all were asked for: none is left to hold out


def test_images_of_one_name_are_told_apart_by_their_folder(tmp_path):
    root = flat(tmp_path / "d", [f"{c}/{i}.png" for c in "ab" for i in range(4)])
    (tmp_path / "list.txt").write_text("x/a/1.png\nx/b/1.png\nx/b/2.png\n")
    read = read_photos(root, subset_list=tmp_path / "list.txt")
    assert [s.name for s in read.train] == ["train/a/1.png", "train/b/1.png", "train/b/2.png"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Wren_0001.png\nWren_9999.png\n", "'Wren_9999.png': not in the training images"),
        ("Wren_0001.png\nWren_0001.png\n", "named twice"),
        ("Wren_0001.png 3\nAlbatross_0001.png 3\n", "class '3' is 'Wren' elsewhere, here 'Albatross'"),
        ("Wren_0001.png\n", "no image of 1 classes, 'Albatross' among them"),
        ("# nothing\n\n", "names no image"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, text, words):
    root = flat(tmp_path / "birds", NAMES)
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(GtaError, match=words):
        read_photos(root, subset_list=tmp_path / "list.txt")


def test_a_list_and_a_fraction_exclude_each_other(photos, tmp_path):
    with pytest.raises(GtaError, match=r"leave --fraction 0\.5 out"):
        read_photos(photos, fraction=0.5, subset_list=tmp_path / "x.txt")
    with pytest.raises(GtaError, match=r"x\.txt cannot be read"):
        read_photos(photos, subset_list=tmp_path / "x.txt")


def test_a_fraction_counts_the_whole_class(make_photos):
    """15 % of 20 images are 3 whether or not some of them are held out for validation."""
    root = make_photos(splits={"train": 20}, classes=2)
    sizes = {f: len(read_photos(root, fraction=f).train) for f in (0.15, 0.5, 1.0)}
    assert sizes == {0.15: 6, 0.5: 20, 1.0: 36}


def test_the_check_finds_what_is_wrong(photos, tmp_path, capsys):
    shutil.copy(photos / "train/class 0/000.jpg", photos / "test/class 1/copy.jpg")
    whole = Image.open(photos / "val/class 2/001.jpg")
    whole.resize((106, 94), Image.Resampling.NEAREST).save(photos / "test/class 2/bigger.png")
    assert main(["data", "check", str(photos), "--json", "--pictures", str(tmp_path / "sheet.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["train_images"], found["val_images"], found["test_images"], found["classes"]) == (15, 6, 11, 3)
    assert found["same_file"] == [["train/class 0/000.jpg", "test/class 1/copy.jpg"]]
    assert found["of_them_with_another_class"] == 1
    assert ["val/class 2/001.jpg", "test/class 2/bigger.png"] in found["look_alikes"]
    assert found["train_digest"] == read_photos(photos).digests["train"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 6 * 132
    (photos / "test/class 0/broken.jpg").write_bytes(b"")
    Image.new("L", (9, 9)).save(photos / "masks/test/class 0/001.png")
    (photos / "masks/train/class 0/001.png").write_bytes(b"")
    assert main(["data", "check", str(photos), "--pictures", str(tmp_path / "sheet.png")]) == 2
    told = capsys.readouterr()
    assert "same_file: train/class 0/000.jpg and test/class 1/copy.jpg" in told.out
    for word in ("broken.jpg: empty file", "test/class 0/001.png: 9×9 px, but", "train/class 0/001.png: empty file"):
        assert word in told.err


def test_each_test_image_is_paired_once_however_many_look_like_it(tmp_path, monkeypatch):
    """A thousand copies on either side are a thousand pairs, not a million."""
    from gta.data import duplicates

    samples = [Sample(tmp_path / f"{i}.png", f"{i}.png", 0, sha256="0") for i in range(2000)]
    bits = torch.cat([torch.ones(1000, 64), torch.ones(1000, 64)])
    bits[500:1000, 0], bits[1500:, 1] = -1, -1
    monkeypatch.setattr(duplicates, "_bits", lambda of: bits[[int(s.name[:-4]) for s in of]])
    pairs = look_alikes(samples[:1000], samples[1000:])
    assert pairs == [(samples[0], t) for t in samples[1000:]]  # the nearest, of them the first
    assert duplicates.same_files(samples[:1000], samples[1000:]) == pairs
    assert look_alikes([], samples) == look_alikes(samples, []) == []


@pytest.mark.parametrize("words", [["check", "--pictures"], ["manifest", "--out"]])
def test_what_cannot_be_written_is_told_and_leaves_nothing(photos, tmp_path, capsys, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    for place in ("taken", "file/x.png"):
        assert main(["data", words[0], str(photos), words[1], str(tmp_path / place)]) == 2
        assert f"{words[1]} {tmp_path / place} cannot be written" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir() if p != photos) == ["file", "taken"]


def test_the_manifest_command(photos, tmp_path, capsys):
    assert main(["data", "manifest", str(photos), "--out", str(tmp_path / "m/list.txt"), "--fraction", "0.15"]) == 0
    assert "3 images of 3 classes, digest " in capsys.readouterr().out
    assert len((tmp_path / "m/list.txt").read_text().splitlines()) == 2 + 3


def test_the_difference_hash_by_hand(tmp_path):
    ramp = np.tile(np.arange(9, dtype=np.uint8) * 20, (8, 1))
    assert difference_hash(Image.fromarray(ramp)).tolist() == [1.0] * 64  # every pixel is darker than the next
    assert difference_hash(Image.fromarray(ramp[:, ::-1].copy())).tolist() == [-1.0] * 64
    ramp[0, 3] = 255  # now the fourth is brighter than the fifth
    assert difference_hash(Image.fromarray(ramp)).tolist() == [1.0] * 3 + [-1.0] + [1.0] * 60
    samples = []
    for i, pixels in enumerate((ramp, ramp[:, ::-1].copy())):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        samples.append(Sample(tmp_path / f"{i}.png", f"{i}.png", 0))
    assert look_alikes(samples, samples[:1]) == [(samples[0], samples[0])]


def test_a_manifest_that_was_cut_or_changed_is_refused(photos, tmp_path):
    out = tmp_path / "all.txt"
    write_manifest(str(photos), out)
    lines = out.read_text().splitlines(keepends=True)
    for changed in (
        lines[:-4],
        [*lines, lines[-1].replace("00", "01")],
        [lines[0], lines[1].replace("15", "14"), *lines[2:]],
    ):
        out.write_text("".join(changed))
        with pytest.raises(GtaError, match="cut or changed"):
            read_photos(photos, subset_list=out)
    out.write_text("".join(lines[2:-1]))  # without its head it is a list like any other
    assert len(read_photos(photos, subset_list=out).train) == 14


def test_names_that_begin_with_a_hash_are_names(photos, tmp_path):
    folder = photos / "train/class 0"
    for i in range(5):
        (folder / f"{i:03}.jpg").rename(folder / f"#{i}.jpg")
    write_manifest(str(photos), tmp_path / "m.txt")
    assert len(read_photos(photos, subset_list=tmp_path / "m.txt").train) == 15
    names = [s.name.removeprefix("train/class 0/") for s in read_photos(photos).train]
    (tmp_path / "l.txt").write_text("\n".join(["# a comment", "#", "# train/class 1/000.jpg", *names]))
    assert len(read_photos(photos, subset_list=tmp_path / "l.txt").train) == 15  # but for what no image is called
    table = tmp_path / "photos" / "t.csv"
    for i in range(5):
        shutil.copy(folder / f"#{i}.jpg", photos / f"#{i}.jpg")
    others = [f"train/class 1/{i:03}.jpg,b" for i in range(5)]
    table.write_text("\n".join(["path,label", *(f"#{i}.jpg,a" for i in range(5)), *others]))
    chosen = write_manifest(str(table), tmp_path / "t.txt")
    assert "./#0.jpg\t" in (tmp_path / "t.txt").read_text() or "./#1.jpg\t" in (tmp_path / "t.txt").read_text()
    assert read_photos(table, subset_list=tmp_path / "t.txt").train == chosen.train


def test_a_manifest_tells_a_name_from_its_end(photos, tmp_path):
    """a.png and sub/a.png."""
    lines = ["path,label"]
    for c in (0, 1):
        for i, name in enumerate((f"{c}.jpg", f"sub/{c}.jpg", f"{c}b.jpg", f"{c}c.jpg")):
            (photos / name).parent.mkdir(exist_ok=True)
            shutil.copy(photos / f"train/class {c}/{i:03}.jpg", photos / name)
            lines.append(f"{name},{c}")
    (photos / "t.csv").write_text("\n".join(lines))
    written = write_manifest(str(photos / "t.csv"), tmp_path / "m.txt")
    assert read_photos(photos / "t.csv", subset_list=tmp_path / "m.txt").train == written.train


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\na.jpg,x\n./a.jpg,x", "line 3: 'a.jpg' is in line 2 already."),
        ("path,label\na.jpg,x\nb/../a.jpg,y", "line 3: 'a.jpg' is in line 2 already, as 'x' and not 'y'"),
        ("path,label,label\na.jpg,x,y", "a column twice"),
        ("path,label\na.jpg,x,y", "line 2: more cells than columns"),
        ('path,label\n"a.jpg,x', "cannot be read as CSV"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(GtaError, match=re.escape(words)):
        read_photos(tmp_path / "t.csv")


def empty_class(photos):
    (photos / "train/class 9").mkdir()


def one_class(photos):
    for split in ("train", "val", "test"):
        for c in (1, 2):
            shutil.rmtree(photos / split / f"class {c}")


def missing_in_a_split(photos):
    shutil.rmtree(photos / "val/class 1")


def strange_in_a_split(photos):
    shutil.copytree(photos / "val/class 1", photos / "val/class 7")


def broken(photos):
    (photos / "test/class 1/x.jpg").write_bytes(b"")


def a_pipe(photos):
    os.mkfifo(photos / "train/class 1/x.png")


def no_image(photos):
    shutil.rmtree(photos / "train")
    (photos / "train").mkdir()


def wrong_mask(photos):
    Image.new("L", (9, 9)).save(photos / "masks/train/class 0/001.png")


def fine(photos):
    pass


@pytest.mark.parametrize(
    "spoil",
    [empty_class, one_class, missing_in_a_split, strange_in_a_split, broken, a_pipe, no_image, wrong_mask, fine],
)
def test_the_check_and_the_training_agree(photos, tmp_path, capsys, spoil):
    spoil(photos)
    refused = None
    try:
        read_photos(photos)
    except GtaError as error:
        refused = str(error)
    status = main(["data", "check", str(photos), "--pictures", str(tmp_path / "sheet.png")])
    assert status == (0 if spoil is fine else 2)
    assert (refused is None) == (spoil is fine)
    if refused is not None and "cannot be used" not in refused:
        assert refused in capsys.readouterr().err
