"""Data: what is read, what is converted, what is chosen, and what is refused."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gta.data.images as images_file
from gta import GtaError
from gta.data import transforms
from gta.data.images import ImageCache, open_mask, open_rgb
from gta.data.loading import EpochSampler
from gta.data.reading import read_photos, read_split
from gta.data.sample import Sample, evenly_spread
from gta.data.subsets import held_out, take_fraction
from gta.data.transforms import TestViews, TrainViews, center_square, framed, normalised, stretch

MEAN, STD = (0.0,) * 3, (1.0,) * 3


def test_a_folder_with_all_splits(photos):
    read = read_photos(photos)
    assert read.classes == ("class 0", "class 1", "class 2")
    assert [len(s) for s in (read.train, read.val, read.test)] == [15, 6, 9]
    assert read.train[5] == Sample(
        photos / "train/class 1/000.jpg", "train/class 1/000.jpg", 1, photos / "masks/train/class 1/000.png"
    )


def test_without_val_a_seeded_tenth_of_every_class_is_held_out(make_photos):
    root = make_photos(splits={"train": 20}, classes=2)
    one, same, other = (read_photos(root, seed=s) for s in (0, 0, 1))
    assert [len(one.train), len(one.val), len(one.test)] == [36, 4, 0]
    assert [s.label for s in one.val] == [0, 0, 1, 1]
    assert not set(one.train) & set(one.val)
    assert one == same
    assert one.val != other.val


def test_fractions_are_nested_and_rounded_up(make_photos):
    root = make_photos(splits={"train": 7, "val": 1}, classes=2)
    sets = {f: set(read_photos(root, fraction=f).train) for f in (0.15, 0.3, 0.5, 1.0)}
    assert [len(s) for s in sets.values()] == [4, 6, 8, 14]  # two classes of ceil(1.05), ceil(2.1), ceil(3.5), 7
    assert sets[0.15] < sets[0.3] < sets[0.5] < sets[1.0]
    assert read_photos(root, fraction=0.5, seed=1).digests != read_photos(root, fraction=0.5).digests


@pytest.mark.parametrize(
    ("fraction", "n", "count"), [(0.07, 100, 7), (0.15, 20, 3), (0.1, 30, 3), (0.15, 1, 1), (1, 9, 9)]
)
def test_ceil_is_decimal(fraction, n, count):
    assert len(take_fraction([str(i) for i in range(n)], fraction, 0)) == count


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01])
def test_shares_out_of_range(fraction):
    with pytest.raises(GtaError, match="fraction"):
        take_fraction(["a"], fraction, 0)


def test_evenly_spread_by_hand():
    assert evenly_spread(range(10), 2) == [2, 7]  # the middles of 0 to 4 and of 5 to 9
    assert evenly_spread("abc", 9) == ["a", "b", "c"]
    assert evenly_spread([], 3) == []


def test_a_class_of_one_image_keeps_it_for_training():
    assert held_out(["a"], 0) == []
    assert len(held_out(["a", "b"], 0)) == 1


def test_the_digest_is_of_names_and_content(photos):
    before = read_photos(photos).digests
    assert read_photos(photos).digests == before
    Image.new("RGB", (53, 47)).save(photos / "train/class 0/000.jpg")
    after = read_photos(photos).digests
    assert after["train"] != before["train"]
    assert after["test"] == before["test"]


def test_strange_names_and_other_files(photos):
    for name in ("ünïcode 照片.JPG", "a,b;'\".jpeg", "deeper/down.jpg"):
        (photos / "train/class 0" / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "train/class 0/000.jpg", photos / "train/class 0" / name)
    for name in ("notes.txt", ".DS_Store", "._000.jpg"):
        (photos / "train/class 0" / name).write_text("no image")
    (photos / "train/.cache").mkdir()
    assert len(read_photos(photos).train) == 18


def ramp(dtype, top):
    return np.linspace(0, top, 20 * 20).reshape(20, 20).astype(dtype)


def write_odd_images(folder):
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(folder / "cmyk.jpg")
    Image.fromarray(ramp(np.uint16, 65535)).save(folder / "sixteen.png")
    Image.fromarray(ramp(np.int32, 65535)).save(folder / "sixteen.tif")
    Image.fromarray(ramp(np.float32, 1.0)).save(folder / "float.tif")
    frames = [Image.new("RGB", (20, 20), c) for c in ("red", "blue")]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:], lossless=True)
    Image.new("RGB", (1, 1), "red").save(folder / "one.png")
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(folder / "transparent.png")
    Image.new("P", (20, 20)).save(folder / "palette.png")
    Image.new("1", (20, 20)).save(folder / "bilevel.png")
    sideways = Image.new("RGB", (20, 10))
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(folder / "sideways.jpg", exif=exif)


def test_odd_images_are_converted(photos, tmp_path):
    folder = photos / "train/class 0"
    write_odd_images(folder)
    read = read_photos(photos)
    assert len(read.train) == 15 + 11
    views = TrainViews(read.train, 24, seed=0)
    assert all(views[i][0].shape == (3, 24, 24) for i in range(len(views)))
    for name in ("cmyk.jpg", "animated.gif", "animated.webp", "one.png"):
        assert np.abs(np.asarray(open_rgb(folder / name), dtype=int)[0, 0] - (255, 0, 0)).max() < 12, name
    assert open_rgb(folder / "transparent.png").getpixel((3, 3)) == (255, 255, 255)
    assert open_rgb(folder / "sideways.jpg").size == (10, 20)
    for name in ("sixteen.png", "sixteen.tif", "float.tif"):
        values = np.asarray(open_rgb(folder / name))[..., 0]
        assert np.abs(values - ramp(np.float64, 255)).max() <= 1, name


def test_every_unreadable_file_is_listed_at_once(photos):
    whole = (photos / "train/class 0/000.jpg").read_bytes()
    (photos / "train/class 0/zero.jpg").write_bytes(b"")
    (photos / "val/class 1/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "test/class 2/text.png").write_text("this is no picture")
    with pytest.raises(GtaError) as refusal:
        read_photos(photos)
    for word in (
        "3 of",
        "train/class 0/zero.jpg: empty",
        "val/class 1/cut.jpg",
        "test/class 2/text.png",
        "--skip-unreadable",
    ):
        assert word in str(refusal.value)
    read = read_photos(photos, skip_unreadable=True)
    assert sorted(read.skipped) == ["test/class 2/text.png", "train/class 0/zero.jpg", "val/class 1/cut.jpg"]
    assert [len(s) for s in (read.train, read.val, read.test)] == [15, 6, 9]


def test_bad_folders_are_refused(tmp_path, photos):
    def refused(*words):
        with pytest.raises(GtaError) as refusal:
            read_photos(photos)
        assert all(w in str(refusal.value) for w in words), refusal.value

    with pytest.raises(GtaError, match="no folder called train"):
        read_photos(tmp_path / "nowhere")
    shutil.rmtree(photos / "test/class 1")
    refused("test has no", "'class 1'")
    (photos / "test/class 1").mkdir()
    (photos / "val/class 9").mkdir()
    shutil.copy(photos / "train/class 0/000.jpg", photos / "val/class 9/a.jpg")
    refused("test has no", "'class 1'", "val has 'class 9', which train does not have")
    shutil.rmtree(photos / "val")
    shutil.rmtree(photos / "test")
    for c in (1, 2):
        shutil.rmtree(photos / f"train/class {c}")
    refused("one class only", "'class 0'")
    for path in (photos / "train/class 0").iterdir():
        path.unlink()
    refused("no images")


def test_masks_are_checked(photos):
    Image.new("L", (9, 9)).save(photos / "masks/test/class 0/001.png")
    (photos / "masks/val/class 1/000.png").write_bytes(b"")
    shutil.copy(photos / "train/class 2/000.jpg", photos / "train/class 2/000.jpeg")
    with pytest.raises(GtaError) as refusal:
        read_photos(photos)
    skipped = read_photos(photos, skip_unreadable=True)
    assert set(skipped.skipped) == {
        "masks/test/class 0/001.png",
        "masks/val/class 1/000.png",
        "masks/train/class 2/000.png",
    }
    assert sum(s.mask is None for s in skipped.train + skipped.val + skipped.test) == 4
    for word in (
        "3 masks",
        "masks/test/class 0/001.png: 9×9 px, but its image test/class 0/001.jpg has 53×47 px",
        "masks/val/class 1/000.png: empty",
        "several images",
    ):
        assert word in str(refusal.value)


def test_masks_of_any_encoding(tmp_path):
    inside = np.zeros((9, 9), dtype=np.uint8)
    inside[2:5, 3:8] = 1
    palette = Image.fromarray(inside, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0] + [0] * 750)  # dark red, as Pascal VOC has it
    alpha = np.dstack([np.full((9, 9, 3), 77, dtype=np.uint8), inside * 255])
    images = {
        "zero_one": Image.fromarray(inside),
        "full": Image.fromarray(inside * 255),
        "bilevel": Image.fromarray(inside * 255).convert("1"),
        "sixteen": Image.fromarray(inside.astype(np.uint16) * 65535),
        "palette": palette,
        "alpha": Image.fromarray(alpha),
        "colour": Image.fromarray(np.dstack([inside * 255] * 3)),
    }
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
        assert (np.asarray(open_mask(tmp_path / f"{name}.png")) == inside * 255).all(), name


def test_images_outside_class_folders_and_links_to_nowhere_are_told(photos):
    (photos / "train/class 0/link.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(GtaError, match=r"link\.jpg"):
        read_photos(photos)
    shutil.copy(photos / "train/class 0/000.jpg", photos / "train/stray.jpg")
    with pytest.raises(GtaError, match=r"stray\.jpg"):
        read_photos(photos)


def test_names_of_any_bytes(photos):
    strange = os.fsdecode(b"caf\xe9.jpg")
    try:
        shutil.copy(photos / "train/class 0/000.jpg", photos / "train/class 0" / strange)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert len(read_photos(photos).train) == 16


def test_one_split_alone(photos):
    classes = ("class 0", "class 1", "class 2")
    shutil.rmtree(photos / "train")
    shutil.rmtree(photos / "test/class 1")
    assert [s.label for s in read_split(photos, "test", classes)] == [0, 0, 0, 2, 2, 2]
    with pytest.raises(GtaError, match="'class 2'"):
        read_split(photos, "test", classes[:2])


def test_views_travel_to_loader_processes(photos):
    """Where processes are not forked, views are pickled."""
    read = read_photos(photos)
    for views in (TestViews(read.test, 40, MEAN, STD), TrainViews(read.train, 40, seed=0)):
        assert torch.equal(pickle.loads(pickle.dumps(views))[2][0], views[2][0])


def test_extreme_shapes_are_cropped_before_they_are_enlarged():
    assert center_square(Image.new("RGB", (1, 4000)), 224).size == (224, 224)


def test_training_views_depend_on_seed_epoch_and_image_only(photos):
    samples = read_photos(photos).train
    views = TrainViews(samples, 24, seed=0)
    n = len(samples)
    torch.manual_seed(1)
    first = views[3][0]
    torch.manual_seed(2)
    assert torch.equal(views[3][0], first)
    assert not torch.equal(views[n + 3][0], first)
    assert not torch.equal(TrainViews(samples, 24, seed=1)[3][0], first)
    assert views[n + 3][1] == samples[3].label


def test_photographs_are_decoded_once_as_far_as_memory_goes(photos, monkeypatch):
    samples = read_photos(photos).train
    opened: list[Path] = []
    monkeypatch.setattr(images_file, "open_rgb", lambda path: opened.append(path) or open_rgb(path))
    roomy, tight = TrainViews(samples, 24, seed=0), TrainViews(samples, 24, seed=0)
    first = [roomy[i][0] for i in range(len(samples))]
    assert len(opened) == len(samples)
    again = [roomy[i][0] for i in range(len(samples))]
    assert len(opened) == len(samples)
    monkeypatch.setattr(images_file, "free_memory", lambda: 4 * 3 * 53 * 47 * 2.5)  # a quarter is room for two
    opened.clear()
    kept_out = [[tight[i][0] for i in range(len(samples))] for _ in range(2)]
    assert len(opened) == 2 * len(samples) - 2
    for views in (again, *kept_out):
        assert all(torch.equal(a, b) for a, b in zip(first, views, strict=True))


def test_large_photographs_are_reduced_to_twice_what_a_view_needs(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (500, 290), "red").save(path)
    assert ImageCache(24).open(path).size == (82, 48)
    assert ImageCache(145).open(path).size == (500, 290)
    assert ImageCache(200).open(path).size == (500, 290)  # never larger


def test_views_normalised_by_the_batch_are_those_normalised_one_by_one(photos):
    views = TrainViews(read_photos(photos).train, 24, seed=0)
    images = torch.stack([views[i][0] for i in range(5)])
    assert images.dtype == torch.uint8
    one_by_one = torch.stack([(image / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
                              for image in images])  # fmt: skip
    torch.testing.assert_close(normalised(images, MEAN, STD), one_by_one)


@pytest.mark.parametrize("frame", [center_square, stretch])
def test_a_frame_normalised_by_the_batch_is_the_test_view_bit_for_bit(photos, frame):
    images = [open_rgb(sample.path) for sample in read_photos(photos).train[:3]]
    pixels = torch.stack([framed(image, 23, frame) for image in images])
    view = transforms.test_view(23, MEAN, STD, frame)
    assert pixels.dtype == torch.uint8
    assert torch.equal(normalised(pixels, MEAN, STD), torch.stack([view(image) for image in images]))


def test_frames_are_the_central_square_or_all_of_a_picture():
    wide = Image.new("RGB", (60, 30), "red")
    wide.paste("blue", (15, 0, 45, 30))
    assert framed(wide, 10).tolist() == [[[value] * 10] * 10 for value in (0, 0, 255)]  # red is cut off
    whole = framed(wide, 20, stretch)
    assert [whole[:, 10, x].tolist() for x in (0, 10, 19)] == [[255, 0, 0], [0, 0, 255], [255, 0, 0]]


def test_a_store_gives_more_for_each_view_by_content_and_number(photos):
    views = TrainViews(read_photos(photos).train, 24, seed=0, views=2, views_seed=3)

    class Store:
        def read(self, pair):
            return pair

    assert len(views[0]) == 2
    views.store = Store()
    n = len(views)
    assert [views[4 + epoch * n][2] for epoch in range(3)] == [(views.samples[4].sha256, i) for i in (6, 7, 6)]


def test_views_leave_the_global_generator_alone(photos):
    views = TrainViews(read_photos(photos).train, 24, seed=0)
    torch.manual_seed(5)
    untouched = torch.rand(3)
    torch.manual_seed(5)
    views[0]
    assert torch.equal(torch.rand(3), untouched)


def test_the_sampler_shuffles_every_epoch_and_shares_among_processes():
    sampler = EpochSampler(11, seed=0)
    first = list(sampler)
    assert sorted(first) == list(range(11))
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(second) == list(range(11, 22))
    assert [i - 11 for i in second] != first
    shares = [list(EpochSampler(11, 0, rank, 3)) for rank in range(3)]
    assert [len(s) for s in shares] == [4, 4, 4]
    assert set().union(*shares) == set(range(11))


def test_test_views_frame_image_and_mask_alike(photos):
    read = read_photos(photos)
    image, label, mask = TestViews(read.test, 40, MEAN, STD)[4]
    assert (image.shape, mask.shape, label) == ((3, 40, 40), (40, 40), 1)
    bright = image[1] > 0.7  # class 1's square is green
    assert (bright & (mask > 0)).sum() / (bright | (mask > 0)).sum() > 0.85
    Image.new("L", (53, 47)).save(photos / "masks/test/class 1/001.png")  # its object lies nowhere
    assert TestViews(read.test, 40, MEAN, STD)[4][2].isnan().all()
    without = [Sample(s.path, s.name, s.label) for s in read.test]
    assert TestViews(without, 40, MEAN, STD)[0][2].isnan().all()


def test_what_is_passed_over_is_said(photos, tmp_path):
    shutil.copytree(photos / "val", photos / "validation")
    shutil.copytree(photos / "val/class 1", tmp_path / "elsewhere")
    (photos / "train/class 1/more").symlink_to(tmp_path / "elsewhere")
    for name in ("a.cr2", "b.CR2", "c.jxl", "README", "Thumbs.db", ".hidden"):
        (photos / "test/class 1" / name).write_text("raw")
    (photos / "masks/test/class 1/001.png").rename(photos / "masks/test/class 1/001.jpg")
    shutil.copy(photos / "train/class 1/000.jpg", photos / "test/class 1/copy.jpg")
    found = read_photos(photos)
    assert (len(found.train), len(found.test)) == (15, 10)
    said = "\n".join(found.notes)
    for words in (
        "the folder 'validation' (splits are called train, val, test)",
        "1 links to folders inside of class folders, such as 'train/class 1/more'",
        "4 files that are no images of a kind that is read (1 without ending, 2 .cr2, 1 .jxl)",
        "1 masks, such as 'masks/test/class 1/001.jpg'",
        "1 test images are training or validation images too, such as 'test/class 1/copy.jpg'",
    ):
        assert words in said
    assert len(found.notes) == 5


def test_ordinary_folders_are_passed_over_in_silence(photos):
    assert read_photos(photos).notes == ()


def test_a_class_folder_that_may_not_be_read_is_not_empty(photos, monkeypatch):
    scan = os.scandir

    def refusing(path="."):
        if str(path).endswith("train/class 1"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="class 1"):
        read_photos(photos)


def test_pipes_are_not_waited_for_and_huge_images_not_decoded(photos, monkeypatch):
    os.mkfifo(photos / "train/class 0/pipe.png")
    Image.new("L", (400, 300)).save(photos / "train/class 0/huge.png")
    monkeypatch.setattr(images_file, "MAX_PIXELS", 100_000)
    found = read_photos(photos, skip_unreadable=True).skipped
    assert found["train/class 0/pipe.png"] == "no regular file"
    assert found["train/class 0/huge.png"].startswith("400×300 px are more than")


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sizes_are_upright_and_digests_of_the_bytes(tmp_path, ending, orientation):
    path = tmp_path / f"x.{ending}"
    image = Image.new("RGB", (13, 7), "red")
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    good, bad = images_file.inspect_all([path])
    assert not bad
    assert good[path] == (hashlib.sha256(path.read_bytes()).hexdigest(), open_rgb(path).size)
    assert good[path][1] == ((7, 13) if orientation > 4 else (13, 7))
