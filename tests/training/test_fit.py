"""The whole way through the command line: photographs in, run folder out."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from gta.cli import main
from gta.data.transforms import TestViews
from gta.training.run_folder import read_options
from gta.training.trainer import resolve_precision
from tests.conftest import TINY, tiny_vit, write_photos

REQUIRED = (
    "method weight layers distance fraction seed epochs image_size lr train_images classes train_loss penalty "
    "val_top1 val_loss test_top1 object_mass source_object_mass jaccard source_jaccard drift wall_seconds "
    "images_per_second data_digest versions"
).split()


def words(data: Path, source: Path, out: Path, *more: str) -> list[str]:
    method = () if "--method" in more else ("--method", "gta")
    return ["train", "--data", str(data), "--source", str(source), "--out", str(out), "--image-size", "40",
            "--epochs", "3", "--batch-size", "4", *method, *more]  # fmt: skip


def train(data: Path, source: Path, out: Path, *more: str) -> dict:
    assert main(words(data, source, out, *more)) == 0
    return json.loads((out / "results.json").read_text())


def same_weights(a: Path, b: Path) -> bool:
    one, two = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photographs, a source, and one finished guided run that tests only read."""
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("world")
    data = write_photos(root / "photos", {"train": 5, "val": 2, "test": 3})
    # drop-path draws random numbers in every step, so that whatever disturbs their order shows
    args = {**TINY, "img_size": 40, "drop_path_rate": 0.3}
    metadata = {"architecture": "vit_tiny_patch16_224", "model_args": json.dumps(args)}
    save_file(tiny_vit(num_classes=0).state_dict(), root / "source.safetensors", metadata)
    results = train(data, root / "source.safetensors", root / "run", "--lr", "1e-3")
    return data, root / "source.safetensors", root / "run", results


def test_the_run_folder_is_complete(world):
    _, _, run, results = world
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert files == {
        "gta.json", "config.yaml", "results.json", "metrics.csv", "model.safetensors", "last.ckpt", "report.html",
        "predictions.csv", "features.npz", "attention.npz", "images.zip", "README.md",
    }  # fmt: skip
    assert not [k for k in REQUIRED if results.get(k) is None]
    assert not [k for k, v in results.items() if isinstance(v, (dict, list))]
    assert (results["train_images"], results["classes"], results["weight"], results["layers"]) == (15, 3, 10.0, "all")
    assert 0 <= results["object_mass"] <= 1
    assert results["penalty"] > 0
    assert results["drift"] > 0
    assert 0 < results["data_wait"] < 1
    assert results["wall_seconds"] > 0


def test_metrics_have_every_step_once(world):
    _, _, run, results = world
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [int(r["step"]) for r in rows] == list(range(9))  # 3 epochs of 15 // 4 batches
    assert [int(r["epoch"]) for r in rows] == [0] * 3 + [1] * 3 + [2] * 3
    assert all(float(r["penalty"]) > 0 for r in rows)
    assert float(rows[-1]["val_top1"]) == pytest.approx(results["val_top1"], abs=1e-4)
    rates = [float(r["lr"]) for r in rows]
    assert max(rates) == pytest.approx(1e-3)
    assert all(0 < rate <= 1e-3 for rate in rates)
    mean = sum(float(r["loss"]) for r in rows[-3:]) / 3
    assert results["train_loss"] == pytest.approx(mean)


def test_the_model_loads_without_gta(world):
    data, _, run, results = world
    with safe_open(run / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    model = timm.create_model(metadata["architecture"], **json.loads(metadata["model_args"]))
    model.load_state_dict(load_file(run / "model.safetensors"))
    from gta.data.reading import read_photos

    samples = read_photos(data).test
    mean, std = ([float(x) for x in metadata[k].split(",")] for k in ("mean", "std"))
    views = TestViews(samples, 40, mean, std)
    with torch.no_grad():
        guesses = model.eval()(torch.stack([views[i][0] for i in range(len(views))])).argmax(-1)
    hits = sum(g == s.label for g, s in zip(guesses.tolist(), samples, strict=True))
    assert results["test_top1"] == pytest.approx(100 * hits / len(samples))

    samples = read_photos(data).val
    views = TestViews(samples, 40, mean, std)
    with torch.no_grad():
        right = model(torch.stack([views[i][0] for i in range(len(views))])).log_softmax(-1)
    loss = -sum(float(row[s.label]) for row, s in zip(right, samples, strict=True)) / len(samples)
    assert results["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_training_learns_and_the_guide_lowers_drift(world, tmp_path):
    data, source, _, _ = world
    more = ("--epochs", "12", "--lr", "1e-3", "--batch-size", "15")
    plain = train(data, source, tmp_path / "plain", "--method", "plain", *more)
    guided = train(data, source, tmp_path / "gta", "--weight", "100", *more)
    assert plain["test_top1"] > 60  # chance is 33
    assert guided["drift"] < 0.5 * plain["drift"]
    assert plain["penalty"] == 0.0
    assert plain["source_object_mass"] == guided["source_object_mass"]
    assert plain["data_digest"] == guided["data_digest"]
    assert [plain[k] for k in ("weight", "layers", "distance")] == [None, None, None]


def test_weight_zero_is_plain_bit_for_bit_and_a_config_runs_again(world, tmp_path):
    data, source, _, _ = world
    train(data, source, tmp_path / "plain", "--method", "plain")
    train(data, source, tmp_path / "zero", "--weight", "0")
    assert same_weights(tmp_path / "plain", tmp_path / "zero")
    config = str(tmp_path / "zero" / "config.yaml")
    assert main(["train", "--config", config, "--out", str(tmp_path / "again")]) == 0
    assert same_weights(tmp_path / "zero", tmp_path / "again")


def test_loader_processes_change_nothing(world, tmp_path):
    data, source, run, _ = world
    train(data, source, tmp_path / "workers", "--lr", "1e-3", "--workers", "2")
    assert same_weights(run, tmp_path / "workers")


def test_fraction_layers_and_seed_reach_the_run(world, tmp_path):
    data, source, _, whole = world
    part = train(
        data, source, tmp_path / "part", "--fraction", "0.3", "--layers", "0,-1", "--seed", "4", "--epochs", "1"
    )
    assert (part["train_images"], part["layers"], part["seed"]) == (6, "0,-1", 4)
    assert part["data_digest"] != whole["data_digest"]


def test_without_val_test_and_masks(world, tmp_path):
    _, source, _, _ = world
    data = write_photos(tmp_path / "photos", {"train": 5}, masks=False)
    results = train(data, source, tmp_path / "run", "--epochs", "1", "--method", "plain")
    assert (results["train_images"], results["val_images"]) == (12, 3)
    assert results["val_top1"] is not None
    for key in ("test_top1", "object_mass", "source_object_mass", "jaccard", "source_jaccard", "drift"):
        assert key in results
        assert results[key] is None
    tested = write_photos(tmp_path / "photos", {"test": 2}, masks=False)
    results = train(tested, source, tmp_path / "run2", "--epochs", "1")
    assert results["drift"] is not None
    assert results["object_mass"] is None


# --- stopping and going on ------------------------------------------------------------------------------------


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "gta.cli", *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell's background jobs, and what they start, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_run_ends_with_the_same_weights(world, tmp_path):
    data, source, _, _ = world
    more = ("--epochs", "25", "--val-every", "7")
    train(data, source, tmp_path / "whole", *more)
    killed = tmp_path / "killed"
    for landmark in ("config.yaml", "last.ckpt"):
        process = start(words(data, source, killed, *more, "--resume"))
        wait_for(killed / landmark, process)
        time.sleep(0.2)
        process.kill()
        process.communicate()
        assert not (killed / "results.json").exists(), "too late: it was complete"
    assert main(words(data, source, killed, *more)) == 2  # neither --resume nor --overwrite
    assert main(["train", "--out", str(killed), "--resume"]) == 0
    assert same_weights(tmp_path / "whole", killed)
    whole, resumed = (list(csv.DictReader((tmp_path / f / "metrics.csv").open())) for f in ("whole", "killed"))
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in whole] == [
        {k: v for k, v in r.items() if k != "seconds"} for r in resumed
    ]


def test_ctrl_c_leaves_a_resumable_folder_and_says_how_to_go_on(world, tmp_path):
    data, source, _, _ = world
    out = tmp_path / "stopped"
    process = start(words(data, source, out, "--epochs", "200"))
    wait_for(out / "last.ckpt", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"gta train --out {out} --resume" in errors
    assert "Traceback" not in errors
    assert not (out / "results.json").exists()


def test_what_is_there_is_not_overwritten(world, tmp_path, capsys):
    data, source, run, _ = world
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert main(words(data, source, run)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["train", "--out", str(run), "--resume"]) == 0  # complete: shown, not touched
    assert main(["train", "--out", str(run), "--resume", "--lr", "0.5"]) == 2
    assert "lr=0.001" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mum.txt").write_text("dear mum")
    for more in ((), ("--overwrite",), ("--resume",)):
        assert main(words(data, source, tmp_path / "letters", *more)) == 2
    assert (tmp_path / "letters" / "mum.txt").exists()


def test_overwrite_replaces_a_run(world, tmp_path):
    data, source, _, _ = world
    first = train(data, source, tmp_path / "run", "--epochs", "1")
    second = train(data, source, tmp_path / "run", "--epochs", "1", "--seed", "3", "--overwrite")
    assert (first["seed"], second["seed"]) == (0, 3)
    assert read_options(tmp_path / "run").seed == 3


def test_a_source_without_rows_is_refused_before_training(world, tmp_path, capsys):
    from safetensors.torch import save_file

    data, *_ = world
    save_file(tiny_vit(class_token=False, global_pool="avg").state_dict(), tmp_path / "s.safetensors")
    assert main(words(data, tmp_path / "s.safetensors", tmp_path / "run", "--method", "plain")) == 2
    assert "[cls]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_names_that_mean_something_to_others(world, tmp_path, capsys):
    _, source, _, _ = world
    data = write_photos(tmp_path / "photos", {"train": 3, "test": 1}, classes=2)
    for split in ("train", "test", "masks/train", "masks/test"):
        (data / split / "class 0").rename(data / split / "$_$")
        (data / split / "class 1").rename(data / split / "[red] [b]")
    train(data, source, tmp_path / "run", "--epochs", "1")
    image = data / "test" / "[red] [b]" / "000.jpg"
    assert main(["predict", str(tmp_path / "run"), str(image)]) == 0
    printed = capsys.readouterr().out
    assert "[red] [b]" in printed or "$_$" in printed
    assert "[red]" in printed.replace("\n", "")


def test_bad_input_leaves_nothing(world, tmp_path, capsys):
    data, source, _, _ = world
    out = tmp_path / "run"
    for more, message in (
        (("--data", str(tmp_path)), "no folder called train"),
        (("--source", "nowhere.pth"), "nowhere.pth"),
        (("--image-size", "41"), "40 or 48"),
        (("--layers", "7"), "-3 to 2"),
        (("--layers", "first"), "all, last, or indices"),
        (("--epochs", "0"), "--epochs 0"),
        (("--weight", "-1"), "--weight -1"),
        (("--fraction", "1.5"), "--fraction 1.5"),
    ):
        assert main(words(data, source, out, *more)) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
    assert list(tmp_path.iterdir()) == []


def test_unreadable_images_are_listed_or_skipped(world, tmp_path, capsys):
    _, source, _, _ = world
    data = write_photos(tmp_path / "photos", {"train": 4, "test": 1})
    (data / "train" / "class 1" / "broken.jpg").write_bytes(b"")
    assert main(words(data, source, tmp_path / "run")) == 2
    assert "train/class 1/broken.jpg: empty file" in capsys.readouterr().err
    results = train(data, source, tmp_path / "run", "--epochs", "1", "--skip-unreadable")
    assert results["skipped_images"] == 1
    assert json.loads((tmp_path / "run" / "skipped.json").read_text()) == {"train/class 1/broken.jpg": "empty file"}


def test_a_run_whose_images_changed_is_not_resumed(world, tmp_path, capsys):
    _, source, _, _ = world
    data = write_photos(tmp_path / "photos", {"train": 4, "val": 1}, masks=False)
    out = tmp_path / "run"
    train(data, source, out, "--epochs", "1")
    (out / "results.json").unlink()  # as if it had been stopped before its evaluation
    (data / "train" / "class 0" / "000.jpg").unlink()
    assert main(["train", "--out", str(out), "--resume"]) == 2
    assert "not those" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run(world, tmp_path, capsys):
    data, source, _, _ = world
    assert main(words(data, source, tmp_path / "run", "--lr", "1e30", "--clip", "0")) == 2
    assert "lower --lr" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()


# --- after training -------------------------------------------------------------------------------------------


def test_evaluate_repeats_the_runs_own_measures(world, capsys):
    _, _, run, results = world
    assert main(["evaluate", str(run), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["top1"] == results["test_top1"]
    for key in ("object_mass", "source_object_mass", "jaccard", "source_jaccard", "drift"):
        assert measured[key] == pytest.approx(results[key], rel=1e-5)
    assert main(["evaluate", str(run), "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == results["val_top1"]
    assert main(["evaluate", str(run)]) == 0
    assert "object_mass" in capsys.readouterr().out


def test_evaluate_on_other_data(world, tmp_path, capsys):
    _, _, run, _ = world
    other = write_photos(tmp_path / "other", {"train": 1, "test": 2})
    assert main(["evaluate", str(run), "--data", str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 6
    shutil.rmtree(other / "train")  # a test set alone will do
    assert main(["evaluate", str(run), "--data", str(other), "--json"]) == 0
    strange = write_photos(tmp_path / "strange", {"train": 1, "test": 1}, classes=4)
    assert main(["evaluate", str(run), "--data", str(strange)]) == 2
    assert "class 3" in capsys.readouterr().err


def test_predict_names_classes(world, capsys):
    data, _, run, _ = world
    images = [str(data / "test" / "class 0" / "000.jpg"), str(data / "test" / "class 2" / "001.jpg")]
    assert main(["predict", str(run), *images, "--json"]) == 0
    guesses = json.loads(capsys.readouterr().out)
    assert [g["image"] for g in guesses] == images
    for guess in guesses:
        assert set(guess["probabilities"]) == {"class 0", "class 1", "class 2"}
        assert sum(guess["probabilities"].values()) == pytest.approx(1)
        assert guess["probability"] == max(guess["probabilities"].values()) == guess["probabilities"][guess["class"]]
    assert main(["predict", str(run), images[0]]) == 0
    assert guesses[0]["class"] in capsys.readouterr().out


def test_a_finished_run_is_a_source_too(world, capsys):
    _, _, run, _ = world
    assert main(["source", str(run / "model.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["layers"], found["heads"], found["patches"], found["missing_keys"]) == (3, 2, "5×5", [])
    assert sorted(found["unexpected_keys"]) == ["head.bias", "head.weight"]


def test_no_run_is_told(tmp_path, capsys):
    for command in (["evaluate", str(tmp_path)], ["predict", str(tmp_path), "a.jpg"]):
        assert main(command) == 2
        assert str(tmp_path) in capsys.readouterr().err


def test_precision_words():
    assert resolve_precision("bf16") == "bf16-mixed"
    assert resolve_precision("32") == "32-true"
    assert resolve_precision("auto") in ("32-true", "bf16-mixed")


def test_two_processes_train_together(world, tmp_path):
    data, source, _, _ = world
    process = start(words(data, source, tmp_path / "run", "--devices", "2", "--epochs", "2"))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test_top1"] is not None
    assert os.path.getsize(tmp_path / "run" / "model.safetensors") > 0
