"""The procedural world: repeatable, with true masks, and with the shortcut that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gta import GtaError
from gta.cli import main
from gta.data.reading import read_photos
from gta.worlds.butterflies import DOWNSTREAM, PRETRAINING, render, scenes, species
from gta.worlds.folder import write_world
from gta.worlds.options import WorldOptions


def test_the_same_arguments_give_the_same_pixels():
    kinds, grounds = species(5, DOWNSTREAM), scenes(3, 0)
    labels, places = torch.arange(5), torch.tensor([0, 1, 2, 0, 1])
    one, two, other = (render(kinds, labels, grounds, places, 48, seed) for seed in (7, 7, 8))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])
    assert one[0].shape == (5, 3, 48, 48)
    assert one[0].dtype == torch.uint8
    assert one[1].shape == (5, 48, 48)
    assert one[1].dtype == torch.bool


def test_the_mask_is_where_the_butterfly_is():
    """Two species drawn with one seed differ on the butterflies and nowhere else."""
    kinds, grounds = species(9, DOWNSTREAM)[[0, 8]], scenes(1, 0)
    places = torch.zeros(32, dtype=torch.long)
    first, second = (render(kinds, torch.full((32,), c), grounds, places, 64, 3) for c in (0, 1))
    differs = (first[0].int() - second[0].int()).abs().amax(1) > 12
    either = first[1] | second[1]
    near = torch.nn.functional.max_pool2d(either[:, None].float(), 3, 1, 1)[:, 0] > 0  # half-covered edge pixels
    assert (differs & ~near).float().mean() < 0.001
    assert (differs & either).sum() > 0.5 * either.sum()
    assert 0.05 < first[1].float().mean() < 0.3


def test_species_of_a_genus_are_nearer_than_others_and_families_never_meet():
    kinds = species(40, DOWNSTREAM)
    spread = (kinds - kinds.mean(0)) / kinds.std(0)
    distance = torch.cdist(spread, spread)
    genus = torch.arange(40) // 4
    same = (genus[:, None] == genus) & ~torch.eye(40, dtype=torch.bool)
    assert distance[same].mean() < 0.85 * distance[genus[:, None] != genus].mean()
    assert distance[same].min() > 0.5
    assert not torch.isclose(species(40, PRETRAINING)[:, None], kinds).all(-1).any()


def test_the_folder_is_one_that_training_takes(tmp_path):
    arguments = ["world", "--out", str(tmp_path / "w"), "--classes", "5", "--train", "3", "--val", "1", "--test", "2"]
    assert main([*arguments, "--size", "40"]) == 0
    read = read_photos(tmp_path / "w")
    assert [len(read.classes), len(read.train), len(read.val), len(read.test)] == [5, 15, 5, 10]
    assert all(s.mask is not None for s in read.test)
    assert Image.open(read.train[0].path).size == (40, 40)
    write_world(WorldOptions(str(tmp_path / "again"), classes=5, train=3, val=1, test=2, size=40))
    assert read_photos(tmp_path / "again").digests == read.digests
    write_world(WorldOptions(str(tmp_path / "other"), classes=5, train=3, val=1, test=2, size=40, seed=1))
    assert read_photos(tmp_path / "other").digests != read.digests


def ground_of(path, mask):
    pixels = np.asarray(Image.open(path), dtype=float)
    return np.median(pixels[np.asarray(Image.open(mask)) == 0], axis=0)


@pytest.mark.parametrize(("spurious", "low", "high"), [(1.0, 0.9, 1.0), (0.0, 0.0, 0.45)])
def test_the_shortcut_is_as_strong_as_asked(tmp_path, spurious, low, high):
    """How often the nearest training ground in colour, of another image, is of the same class."""
    write_world(WorldOptions(str(tmp_path / "w"), classes=6, train=12, val=0, test=0, size=32, spurious=spurious))
    train = read_photos(tmp_path / "w").train
    colours = np.array([ground_of(s.path, s.mask) for s in train])
    labels = np.array([s.label for s in train])
    distance = np.linalg.norm(colours[:, None] - colours, axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert low <= (labels[distance.argmin(1)] == labels).mean() <= high


def test_where_the_class_is_both_it_is_a_species_on_a_ground(tmp_path):
    write_world(WorldOptions(str(tmp_path / "w"), classes=6, train=8, val=0, test=0, size=32, label="both"))
    train = read_photos(tmp_path / "w").train  # 2 species on 3 grounds
    colours = np.array([ground_of(s.path, s.mask) for s in train])
    labels = np.array([s.label for s in train])
    distance = np.linalg.norm(colours[:, None] - colours, axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(1)] // 2 == labels // 2).mean() > 0.9  # the ground tells which ground
    assert 0.2 <= (labels[distance.argmin(1)] == labels).mean() <= 0.8  # and not which species


def test_other_sensors_see_the_same_scenes(tmp_path):
    seen = {}
    for sensor in ("colour", "inverted", "grey", "thermal"):
        out = tmp_path / sensor
        write_world(WorldOptions(str(out), classes=2, train=2, val=0, test=0, size=32, sensor=sensor))
        files = sorted((out / "train").rglob("*.png"))
        seen[sensor] = np.stack([np.asarray(Image.open(file)).astype(int) for file in files])
    luma = seen["colour"] @ (weights := [0.2989, 0.587, 0.114])  # torchvision's
    assert (seen["inverted"] == 255 - seen["colour"]).all()
    assert (seen["grey"][..., 0] == seen["grey"][..., 2]).all()
    assert np.abs(seen["grey"][..., 0] - luma).max() <= 0.51
    order = np.argsort(luma, axis=None)
    warm = (seen["thermal"] @ weights).flatten()[order]
    assert (np.diff(warm) >= -3).all()  # brighter stays brighter, but for rounding
    assert warm[-1] > warm[0] + 100
    assert np.ptp(seen["thermal"], axis=-1).max() > 100  # in colours


@pytest.mark.parametrize(
    "wrong",
    [
        {"sensor": "x-ray"},
        {"label": "x"},
        {"classes": 3, "label": "both"},
        {"classes": 1},
        {"spurious": 1.1},
        {"train": 0},
        {"seed": -1},
    ],
)
def test_arguments_out_of_range(tmp_path, wrong):
    with pytest.raises(GtaError, match=next(iter(wrong))):
        write_world(WorldOptions(str(tmp_path / "w"), **wrong))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(GtaError, match="there already"):
        write_world(WorldOptions(str(tmp_path)))
    assert (tmp_path / "mine.txt").exists()
