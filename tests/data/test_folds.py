"""Folds, and images that are there twice."""

import shutil
from collections import Counter

import pytest
from PIL import Image

from gta.data.duplicates import alike_groups
from gta.data.folds import folds_of
from gta.data.loading import NO_EPOCH, EpochSampler, class_weights
from gta.data.reading import read_photos
from gta.errors import GtaError
from tests.conftest import write_photos


@pytest.fixture
def copied(tmp_path):
    """7 images of each of 3 classes in train, 2 in val; 3 of train again: renamed, resized, of another class."""
    root = write_photos(tmp_path / "photos", {"train": 7, "val": 2, "test": 2}, masks=False)
    shutil.copy(root / "train" / "class 0" / "000.jpg", root / "val" / "class 0" / "copy.jpg")
    with Image.open(root / "train" / "class 1" / "001.jpg") as image:
        image.resize((91, 81), Image.Resampling.BICUBIC).save(root / "train" / "class 1" / "larger.png")
    shutil.copy(root / "train" / "class 2" / "002.jpg", root / "train" / "class 0" / "other.jpg")
    return root


def test_every_class_is_spread_and_copies_stay_together(copied):
    whole = read_photos(copied, folds=5)
    assert (len(whole.train), len(whole.val), len(whole.test)) == (30, 0, 6)
    parts = [read_photos(copied, folds=5, fold=fold) for fold in range(5)]
    assert sorted(s.name for part in parts for s in part.val) == sorted(s.name for s in whole.train)
    for part in parts:
        assert {s.name for s in part.train} == {s.name for s in whole.train} - {s.name for s in part.val}
        assert part.test == whole.test
        for names in (
            {"train/class 0/000.jpg", "val/class 0/copy.jpg"},
            {"train/class 1/001.jpg", "train/class 1/larger.png"},
            {"train/class 2/002.jpg", "train/class 0/other.jpg"},
        ):
            assert len(names & {s.name for s in part.val}) in (0, 2)
        counts = Counter(s.label for s in part.val)
        assert all(1 <= counts[label] <= 3 for label in range(3))
        assert 5 <= len(part.val) <= 7
    assert read_photos(copied, folds=5, fold=0, seed=1).val != parts[0].val
    assert read_photos(copied, folds=5, fold=0).val == parts[0].val


def test_groups_are_those_of_a_chain_of_pairs(copied):
    samples = read_photos(copied, folds=2).train
    groups = alike_groups(samples)
    several = {number for number, count in Counter(groups).items() if count > 1}
    assert len(several) == 3
    assert alike_groups(()) == []


def test_what_cannot_be_cut_is_told(tmp_path):
    root = write_photos(tmp_path / "photos", {"train": 2}, classes=2, masks=False)
    with pytest.raises(GtaError, match="--cross-validate 5 needs as many different images, got 4"):
        read_photos(root, folds=5)
    assert len(read_photos(root, folds=4, fold=3).val) == 1
    shutil.copy(root / "train" / "class 1" / "000.jpg", root / "train" / "class 1" / "001.jpg")
    with pytest.raises(GtaError, match="1 classes have one image only, or images that all look alike, 'class 1'"):
        read_photos(root, folds=2)
    with pytest.raises(GtaError, match="--subset-list"):
        read_photos(root, folds=2, subset_list="list.txt")


def test_a_larger_share_is_held_out(tmp_path):
    root = write_photos(tmp_path / "photos", {"train": 10}, masks=False)
    assert [len(read_photos(root, val_fraction=share).val) for share in (0.1, 0.3, 0.99)] == [3, 9, 27]
    small, large = ({s.name for s in read_photos(root, val_fraction=share).val} for share in (0.1, 0.3))
    assert small < large


def test_folds_of_unequal_classes_are_of_one_size(tmp_path):
    root = write_photos(tmp_path / "photos", {"train": 23}, classes=1, masks=False)
    write_photos(root, {"train": 23}, classes=2, masks=False)
    for path in sorted((root / "train" / "class 1").iterdir())[3:]:
        path.unlink()
    samples = read_photos(root, folds=3).train
    folds = folds_of(samples, ("class 0", "class 1"), 3, seed=0)
    assert sorted(Counter(f for f, s in zip(folds, samples, strict=True) if s.label == 1).values()) == [1, 1, 1]
    assert sorted(Counter(folds).values()) == [8, 9, 9]


def test_classes_count_alike_whatever_their_size():
    labels = [0] * 30 + [1] * 10
    assert class_weights(labels).tolist() == pytest.approx([40 / 60, 40 / 20])
    sampler = EpochSampler(40, seed=0, labels=labels)
    seen = Counter[int]()
    for epoch in range(50):
        sampler.set_epoch(epoch)
        positions = list(sampler)
        assert len(positions) == len(set(positions)) == 40  # an image that comes again has another view
        numbers = [position // 40 for position in positions]
        assert {number % NO_EPOCH for number in numbers} == {epoch}
        seen.update(labels[position % 40] for position in positions)
    assert seen[1] / (seen[0] + seen[1]) == pytest.approx(0.5, abs=0.04)
    first, second = (list(EpochSampler(40, 0, rank, 2, labels)) for rank in (0, 1))
    assert sorted(first + second) == sorted(EpochSampler(40, 0, labels=labels))
