"""Wrong labels and copies that were put there are found, and nothing else is."""

import numpy as np
import pytest

from gta.report import problems
from gta.report.problems import Images
from gta.report.run import RunFiles
from gta.report.summary import accuracy, chance, probe, warnings
from tests.report.folders import change, write_run


@pytest.fixture
def files(tmp_path):
    return write_run(tmp_path / "run")


def features(folder):
    return RunFiles(folder).features


def test_clean_data_raises_no_suspicion(files):
    images = Images(features(files))
    assert images.suspects() == []
    assert images.copies() == []


def test_swapped_labels_are_found_with_the_class_they_look_like(files):
    of = features(files)
    label = of["label"].copy()
    label[3], label[40] = 4, 5  # one in train, one elsewhere
    found = Images({**of, "label": label}).suspects()
    assert {(s.row, s.label, s.guess) for s in found} == {(3, 4, of["label"][3]), (40, 5, of["label"][40])}
    assert all(s.guess_probability > problems.SURE > problems.DOUBT > s.label_probability for s in found)


def test_a_copy_needs_alike_features_and_alike_pixels(files):
    of = {name: values.copy() for name, values in features(files).items()}
    test = np.nonzero(of["split"] == "test")[0]
    same, resized, twin, other = test[0], test[1], test[2], test[3]
    for i, row in enumerate((same, resized, twin)):
        of["features"][i] = of["features"][row]
    for i, row in ((0, same), (1, resized), (4, other)):
        of["tiny"][i] = np.clip(of["tiny"][row].astype(int) + (i > 0), 0, 255)  # twin: alike in features alone
    of["sha256"][0] = of["sha256"][same]
    images = Images(of)
    assert [(c.train, c.other, c.same_file) for c in images.copies()] == [(0, same, True), (1, resized, False)]
    near, cosines = images.nearest(np.array([same]), np.arange(30), 3)
    assert 0 not in near[0]  # its copy is no neighbour
    assert same not in near[0]
    assert list(cosines[0]) == sorted(cosines[0], reverse=True)


def test_warnings_say_what_the_numbers_cannot(tmp_path):
    folder = write_run(tmp_path / "small", {"train": 2, "val": 1, "test": 2}, accuracy=0.0)
    run = RunFiles(folder)
    found = probe(run, run.shown)
    told = {w.title: w.text for w in warnings(run, run.shown, found, [], None)}
    assert list(told) == [
        "6 val images say little", "12 test images say little", "Not better than chance", "A linear probe does as well",
        "Labels were not checked", "6 classes with fewer than 3 training images",
    ]  # fmt: skip
    assert "and" not in told["Labels were not checked"][:3]
    assert chance(run.shown) == pytest.approx(100 / 6)
    good = RunFiles(write_run(tmp_path / "good", {"train": 5, "val": 40, "test": 60}, accuracy=1.0))
    assert accuracy(good.shown).value > 95
    assert probe(good, good.shown).accuracy.value > 95
    titles = [w.title for w in warnings(good, good.shown, None, [], [])]
    assert titles == []


def test_too_many_images_are_not_checked_for_seconds_only(files, monkeypatch):
    monkeypatch.setattr(problems, "MOST", 1000)
    assert Images(features(files)).suspects() is None


def test_labels_in_the_page_come_from_the_files(files):
    of = features(files)
    label = of["label"].copy()
    label[3] = 4
    change(files, label=label)
    assert len(Images(features(files)).suspects()) == 1
