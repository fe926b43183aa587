"""Training by folds, and on classes of different size."""

import json
import shutil

import pytest
import torch
from torch.nn.functional import cross_entropy

import gta
from gta.errors import GtaError
from gta.methods.base import Method
from gta.methods.compose import ComposedMethod
from gta.tables import read_csv
from gta.training.accuracy import accuracies
from gta.training.calibration import fit_temperature
from tests.conftest import tiny_vit

FEW = {"image_size": 40, "epochs": 2, "batch_size": 6, "lr": 5e-4, "method": "plain"}


@pytest.fixture(scope="module")
def folded(finished, tmp_path_factory):
    """A run with 3 folds, on the data of another."""
    out = tmp_path_factory.mktemp("folded") / "run"
    return gta.fit(finished.folder.parent / "photos", out, source=finished.options.source, cross_validate=3, **FEW)


def test_every_image_is_judged_once_by_a_model_that_had_not_seen_it(finished, folded):
    results = folded.results
    assert (results["train_images"], results["val_images"], results["cv_images"]) == (30, 0, 30)
    rows, tops = [], []
    for fold in range(3):
        folder = folded.folder / "folds" / str(fold)
        files = {path.name for path in folder.iterdir()}
        assert {"gta.json", "config.yaml", "metrics.csv", "predictions.csv", "results.json"} == files
        its = json.loads((folder / "results.json").read_text())
        assert its["train_images"] + its["val_images"] == 30
        assert its["test_top1"] is None
        tops.append(its["val_top1"])
        rows += read_csv(folder / "predictions.csv")
    photos = finished.folder.parent / "photos"
    images = [*gta.image_paths(photos / "train"), *gta.image_paths(photos / "val")]
    assert sorted(str(photos / row["path"]) for row in rows) == sorted(images)
    classes = folded.trained().classes
    labels = torch.tensor([classes.index(row["label"]) for row in rows])
    guesses = torch.tensor([classes.index(row["guess"]) for row in rows])
    expected = accuracies(labels, guesses)
    assert results["cv_top1"] == pytest.approx(expected["top1"])
    assert results["cv_macro_f1"] == pytest.approx(expected["macro_f1"])
    assert results["cv_top1_low"] < results["cv_top1"] <= results["cv_top1_high"] <= 100
    assert results["cv_top1_spread"] == pytest.approx(float(torch.tensor(tops).std()), abs=1e-3)
    logits = torch.tensor([[float(row[f"p:{name}"]) for name in classes] for row in rows]).log()
    assert results["temperature"] == pytest.approx(fit_temperature(logits, labels), rel=1e-3)
    assert folded.trained().temperature == results["temperature"]
    assert results["test_ece_after"] is not None
    assert results["val_ece_after"] is None
    card = (folded.folder / "README.md").read_text()
    assert f"top-1 {results['cv_top1']:.1f} % [" in card
    assert "which was fitted on the images that cross-validation left out" in " ".join(card.split())


def test_an_unfinished_run_goes_on_with_the_folds_that_are_left(folded, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folded.folder, run)
    kept = (run / "folds" / "0" / "results.json").stat().st_mtime_ns
    (run / "results.json").unlink()
    shutil.rmtree(run / "folds" / "2")
    options = {k: v for k, v in vars(folded.options).items() if k != "out"}
    again = gta.fit(out=run, resume=True, **options)
    assert (run / "folds" / "0" / "results.json").stat().st_mtime_ns == kept
    for key in ("cv_top1", "temperature", "test_loss"):
        assert again.results[key] == pytest.approx(folded.results[key], rel=1e-4)


def test_one_fold_alone_and_options_that_make_no_sense(finished, folded, tmp_path):
    data, source = finished.folder.parent / "photos", finished.options.source
    alone = gta.fit(data, tmp_path / "run", source=source, cross_validate=3, fold=1, **FEW)
    its = json.loads((folded.folder / "folds" / "1" / "results.json").read_text())
    assert alone.results["val_loss"] == pytest.approx(its["val_loss"], rel=1e-4)
    assert alone.results["test_top1"] is not None
    assert alone.evaluate(split="val")["loss"] == pytest.approx(its["val_loss"], rel=1e-4)
    for wrong in ({"cross_validate": 1}, {"fold": 0}, {"cross_validate": 3, "fold": 3}, {"val_fraction": 1.0}):
        with pytest.raises(GtaError, match=next(reversed(wrong)).replace("_", "-")):
            gta.fit(data, tmp_path / "no", **wrong)
    with pytest.raises(GtaError, match="balance"):
        gta.fit(data, tmp_path / "no", source=source, reuse=True, balance="sampler", **FEW | {"method": "gta"})
    assert not (tmp_path / "no").exists()


def test_balance_reaches_the_training(finished, tmp_path):
    data = shutil.copytree(finished.folder.parent / "photos", tmp_path / "photos")
    for path in sorted((data / "train" / "class 2").iterdir())[1:]:
        path.unlink()
    found = {}
    for balance in ("none", "sampler", "loss"):
        run = gta.fit(data, tmp_path / balance, source=finished.options.source, balance=balance, **FEW | {"epochs": 1})
        assert run.results["balance"] == balance
        assert (run.results["smallest_class"], run.results["largest_class"]) == (1, 6)
        found[balance] = run.results["test_loss"]
    assert len(set(found.values())) == 3


def test_a_weighted_loss_by_hand():
    """Weights by class: the mean of each image's cross-entropy, weighted, over the batch's weights."""
    target, source = tiny_vit(1, num_classes=3), tiny_vit(0, num_classes=0)
    weights, labels = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0, 1, 1, 2])
    images = torch.randn(4, 3, 40, 40)
    target.eval()
    done = ComposedMethod(target, source, [Method()], class_weights=weights)(images, labels)
    each = torch.stack([cross_entropy(row[None], label[None]) for row, label in zip(done.logits, labels, strict=True)])
    assert done.loss.item() == pytest.approx(((each * weights[labels]).sum() / weights[labels].sum()).item(), rel=1e-5)
