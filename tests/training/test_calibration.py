"""Calibration and accuracies: solved by hand, and against other ways to compute them."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import cross_entropy

import gta
from gta.training.accuracy import accuracies
from gta.training.calibration import calibration_error, fit_temperature
from gta.training.results import calibrate


def test_the_temperature_by_hand():
    """Two classes, logits (±a, 0), a share of q right: at the optimum sigmoid(a / T) = q, but for the pull to 1."""
    n, a, q = 20_000, 3.0, 0.8
    logits = torch.tensor([[a, 0.0]]).repeat(n, 1)
    labels = (torch.arange(n) >= q * n).long()
    assert fit_temperature(logits, labels) == pytest.approx(a / math.log(q / (1 - q)), rel=1e-3)


def test_the_temperature_is_where_the_gradient_vanishes():
    torch.manual_seed(0)
    labels = torch.randint(7, (53,))
    logits = 4 * torch.randn(53, 7) + 4 * torch.eye(7)[labels]
    log = torch.tensor(math.log(fit_temperature(logits, labels)), dtype=torch.double, requires_grad=True)
    (cross_entropy(logits.double() / log.exp(), labels, reduction="sum") + log**2 / 2).backward()
    assert abs(float(log.grad)) < 0.02
    assert float(log.detach().exp()) > 1.5  # much too sure


def test_few_images_that_are_all_right_do_not_ask_for_certainty():
    logits = 5 * torch.eye(3)[[0, 1, 2, 0]]
    assert 0.5 < fit_temperature(logits, torch.tensor([0, 1, 2, 0])) < 1


def test_calibration_error_by_hand():
    """Confidences 0.9 (3 of 4 right) and 0.6 (none of 1): (4·|0.75 − 0.9| + 1·|0 − 0.6|) / 5."""
    rows = torch.tensor([[0.9, 0.1]] * 4 + [[0.4, 0.6]]).log()
    labels = torch.tensor([0, 0, 0, 1, 0])
    assert calibration_error(rows, labels) == pytest.approx(100 * (4 * 0.15 + 0.6) / 5, abs=1e-4)
    assert calibration_error(torch.tensor([[50.0, 0.0]]), torch.tensor([0])) == pytest.approx(0, abs=1e-6)


def test_calibration_error_against_a_loop_over_bins():
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(211, 5), torch.randint(5, (211,))
    confidence, guess = (logits / 1.7).softmax(-1).max(-1)
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            gap = (guess[inside] == labels[inside]).float().mean() - confidence[inside].mean()
            total += float(inside.float().mean() * gap.abs())
    assert calibration_error(logits, labels, 1.7) == pytest.approx(100 * total, abs=1e-3)


def test_accuracies_by_hand():
    """Class 0: 3 of 4 right, 4 guesses; class 1: 1 of 2 right, 2 guesses; class 2: no image, one guess."""
    labels, guesses = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 2, 1, 0])
    found = accuracies(labels, guesses)
    assert found["top1"] == pytest.approx(100 * 4 / 6)
    assert found["balanced_accuracy"] == pytest.approx(100 * (3 / 4 + 1 / 2) / 2)
    assert found["macro_f1"] == pytest.approx(100 * (6 / 8 + 2 / 3 + 0) / 3)


def test_accuracies_against_counting_pairs():
    torch.manual_seed(0)
    labels, guesses = torch.randint(5, (97,)).clamp(max=3), torch.randint(5, (97,))
    pairs = list(zip(labels.tolist(), guesses.tolist(), strict=True))
    f1, recall = [], []
    for c in range(5):
        true = sum(y == g == c for y, g in pairs)
        false, missed = sum(g == c != y for y, g in pairs), sum(y == c != g for y, g in pairs)
        f1.append(2 * true / (2 * true + false + missed))
        if true + missed:
            recall.append(true / (true + missed))
    found = accuracies(labels, guesses)
    assert found["macro_f1"] == pytest.approx(100 * sum(f1) / len(f1))
    assert found["balanced_accuracy"] == pytest.approx(100 * sum(recall) / len(recall))


def test_a_run_keeps_its_temperature(finished):
    results = finished.results
    with safe_open(finished.folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["temperature"]) == results["temperature"] == finished.trained().temperature
    frame = finished.predictions()
    classes = finished.trained().classes
    for split in ("val", "test"):
        part = frame[frame.split == split]
        logits = torch.tensor(part[[f"p:{name}" for name in classes]].to_numpy()).log()
        labels = torch.tensor([classes.index(label) for label in part.label])
        if split == "val":
            assert results["temperature"] == pytest.approx(fit_temperature(logits, labels), rel=1e-4)
        for when, temperature in (("before", 1), ("after", results["temperature"])):
            error = calibration_error(logits, labels, temperature)
            assert results[f"{split}_ece_{when}"] == pytest.approx(error, abs=1e-3)
        assert results[f"{split}_macro_f1"] == pytest.approx(accuracies(labels, logits.argmax(-1))["macro_f1"])
    measured = finished.evaluate()
    assert measured["ece"] == pytest.approx(results["test_ece_after"], abs=1e-3)
    assert measured["balanced_accuracy"] == results["test_balanced_accuracy"]
    images = gta.image_paths(finished.folder.parent / "photos" / "test")
    row = frame[frame.split == "test"].iloc[0]
    expected = (torch.tensor([row[f"p:{name}"] for name in classes]).log() / results["temperature"]).softmax(-1)
    assert finished.predict(images[0])[0].probability == pytest.approx(float(expected.max()), abs=1e-5)


def test_without_validation_there_is_no_temperature():
    temperature, results = calibrate({})
    assert temperature == 1
    assert set(results.values()) == {None}
