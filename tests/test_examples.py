"""Every example runs, every composed parses, every benchmark starts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from transformers import AutoModelForImageClassification, Dinov2Config, Dinov2Model

from gta.cli import main as cli
from gta.training.options import TrainOptions

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) < 60


def test_plain_pytorch_learns(photos, source_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    top1 = load(ROOT / "examples" / "plain_pytorch.py").main(
        str(source_file), str(photos), image_size=40, epochs=25, lr=1e-3
    )
    assert top1 > 50  # chance is 33
    assert (tmp_path / "model.pth").is_file()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("lightning_callback", {"epochs": 12}),
        ("accelerate_loop", {"epochs": 8}),
        ("timm_script", {"epochs": 8, "batch_size": 5}),
    ],
)
def test_examples_of_other_loops_learn(name, more, photos, source_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    top1 = load(ROOT / "examples" / f"{name}.py").main(str(source_file), str(photos), image_size=40, lr=1e-3, **more)
    assert top1 > 50  # chance is 33


def test_transformers_trainer_learns(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**shape, image_size=40, patch_size=8)).save_pretrained("pretrained")
    example = load(ROOT / "examples" / "transformers_trainer.py").main
    assert example("pretrained", str(photos), epochs=15, lr=1e-3) > 50
    assert type(AutoModelForImageClassification.from_pretrained("model")).__name__ == "Dinov2ForImageClassification"


def test_from_photos_to_a_page_and_onnx(photos, source_file, tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("onnxscript")
    example = load(ROOT / "examples" / "photos_to_onnx.py").main
    run = example(
        str(photos), str(source_file), str(tmp_path / "run"), image_size=40, epochs=12, lr=1e-3, method="plain"
    )
    assert run.page.is_file()
    said = pandas.read_csv(run.folder / "said.csv")
    assert len(said) == 9
    assert (said.image.str.split("/").str[-2] == said.label).sum() > 4  # chance is 3
    images = list(said.image)
    model = str(run.folder / "export" / "onnx" / "model.onnx")
    named = load(ROOT / "examples" / "onnx_predict.py").predict(model, *images)
    assert [name for name, _ in named] == [p.label for p in run.predict(images)]
    assert " of 9 images named" in capsys.readouterr().out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_recipes_parse(path):
    TrainOptions(data="x", out="y", **yaml.safe_load(path.read_text()))
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("gta train" in line for line in header), "the header says how to run it"


def test_source_precision_prints_every_way(photos, source_file, tmp_path, capsys):
    words = ("train", "--data", photos, "--source", source_file, "--out", tmp_path / "run")
    assert cli([*map(str, words), "--image-size", "40", "--epochs", "1", "--lr", "1e-3"]) == 0
    capsys.readouterr()
    measure = load(ROOT / "benchmarks" / "source_precision.py").main
    measure(str(source_file), str(tmp_path / "run"), str(photos), image_size=40, batch_size=4, rounds=1)
    told = capsys.readouterr().out
    assert "float32: " in told
    assert "rows 0.0e+00, penalty +0.00%" in told
    assert all(
        way in told
        for way in ("feed-forward bf16", "feed-forward bf16, compiled", "bf16 autocast, compiled", "fp16 autocast")
    )


def test_first_step_prints_what_pulls(photos, source_file, capsys):
    load(ROOT / "benchmarks" / "first_step.py").main(str(source_file), str(photos), image_size=40, batch_size=4)
    beside, stored, _ = capsys.readouterr().out.splitlines()
    assert beside.startswith("  beside: penalty 0.")
    assert float(stored.split("gradient ")[1].split(",")[0]) < 0.05 * float(stored.split()[-1])


@pytest.mark.parametrize(
    "path", (ROOT / "benchmarks" / "results").glob("*/table.md"), ids=lambda path: path.parent.name
)
def test_the_pages_show_the_tables_of_studies(path):
    table = path.read_text(encoding="utf-8").split("\n\n")[0].strip()
    assert any(table in (ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("results.md", "questions.md"))
