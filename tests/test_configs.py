"""Every composed that is shipped parses, says how it is run, and what of it is measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gta.cli.parser import parse
from gta.data.datasets import DATASETS
from gta.training.options import TrainOptions

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PAPER = {f"{name}-{percent}" for name in ("cub", "cars", "aircraft", "dogs", "pets") for percent in (15, 30, 50, 100)}


def options(words: list[str]) -> TrainOptions:
    command, given = parse(words)
    return command.bind(given).arguments["options"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_recipe_and_its_command_parse(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = path.read_text()
    command = re.search(r"^# gta (train .*)$", text, re.MULTILINE)
    assert command, "its header has no command"
    assert f"--config {path.relative_to(ROOT)} " in command[0]
    assert "Cost" in text
    assert options(command[1].split()).epochs >= 1


def test_the_papers_recipes_are_all_there():
    assert {path.stem for path in CONFIGS if path.parent.name == "paper"} == PAPER


@pytest.mark.parametrize("stem", sorted(PAPER))
def test_the_papers_recipes_name_their_set_and_share(stem, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, percent = stem.split("-")
    text = (ROOT / f"configs/paper/{stem}.yaml").read_text()
    words = re.search(r"^# gta (train .*)$", text, re.MULTILINE)[1].split()
    read = options(words)
    assert read.fraction == int(percent) / 100
    assert read.data.startswith(f"{name}:")
    assert name in DATASETS
    for part in ("arXiv 2401.02656", "Our assumptions", "not measured"):
        assert part in text
