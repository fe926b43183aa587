"""Every configuration that is shipped parses, says how it is run, and what of it is measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gta.cli.parser import parse
from gta.data.datasets import DATASETS
from gta.training.options import TrainOptions

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PAPER = {"cub", "cars", "aircraft", "dogs", "pets"}


def options(path: Path, *more: str) -> TrainOptions:
    """Of the command in a file's header."""
    found = re.search(r"^# gta (train .*)$", path.read_text(), re.MULTILINE)
    assert found, "its header has no command"
    command, given = parse([*found[1].split(), *more])
    return command.bind(given).arguments["options"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_file_and_its_command_parse(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert f"--config {path.relative_to(ROOT)} " in path.read_text()
    assert "Cost" in path.read_text()
    assert options(path).epochs >= 1


def test_the_papers_sets_are_all_there():
    assert {path.stem for path in CONFIGS if path.parent.name == "paper"} == PAPER


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_papers_sets_name_their_data_and_take_every_share(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = ROOT / f"configs/paper/{name}.yaml"
    read = options(path)
    assert (read.fraction, read.epochs) == (0.15, 60)
    assert read.data.startswith(f"{name}:")
    assert name in DATASETS
    text = path.read_text()
    for share, epochs in re.findall(r"--fraction ([\d.]+)[\s#]+--epochs (\d+)", text):
        read = options(path, "--fraction", share, "--epochs", epochs)
        assert (read.fraction, read.epochs) == (float(share), int(epochs))
    for part in ("arXiv 2401.02656", "Our assumptions", "not measured"):
        assert part in text
