"""One of each kind, added at run time in one place, is known to the command line, the grid and the messages.

A data set is added in tests/data/test_datasets.py, a source layout in tests/sources/test_checkpoints.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from gta.cli import main
from gta.cli.parser import COMMANDS, Command
from gta.distances import DISTANCES
from gta.methods import METHODS
from gta.methods.base import Method, Step, check_number
from gta.registry import Registry
from gta.schedules import SCHEDULES
from gta.studies.grid import shipped_grid
from gta.vit.attention_logits import AttentionMaps
from gta.vit.structure import ViTInfo


@contextmanager
def added(registry: Registry[Any], name: str, entry: Any) -> Iterator[None]:
    registry.add(name, entry)
    try:
        yield
    finally:
        registry.remove(name)


@pytest.fixture
def train(photos, source_file, tmp_path):
    def run(*words: str) -> dict[str, Any]:
        out = tmp_path / "run"
        given = ["--data", str(photos), "--source", str(source_file), "--image-size", "40", "--epochs", "1"]
        assert main(["train", *given, "--batch-size", "5", "--out", str(out), "--overwrite", *words]) == 0
        return dict(json.loads((out / "results.json").read_text()))

    return run


@dataclass
class EntropyKD(Method):
    """Hold the entropy of the last layer's attention near the source's.

    Args:
        weight: Weight of the squared difference, 0 or above.
    """

    weight: float = 2.0

    name: ClassVar[str] = "entropy_kd"
    grid: ClassVar = {"entropy_kd.weight": (0.1, 1, 10)}

    def __post_init__(self) -> None:
        check_number(self, "weight", 0)

    def capture(self, vit: ViTInfo) -> AttentionMaps:
        return AttentionMaps(vit, [vit.depth - 1])

    def penalty(self, target: list[torch.Tensor], source: list[torch.Tensor], step: Step) -> torch.Tensor:
        t, s = (-torch.special.xlogy(maps[0], maps[0]).sum(-1) for maps in (target, source))
        return self.weight * (t - s).square().mean()


def test_a_method(train, capsys):
    with added(METHODS, "entropy_kd", EntropyKD):
        results = train("--method", "gta+entropy_kd", "--entropy_kd.weight", "5")
        assert results["entropy_kd.weight"] == 5
        assert results["penalty"] > 0
        assert shipped_grid()["methods"]["entropy_kd"] == {"entropy_kd.weight": [0.1, 1, 10]}
        assert main(["methods"]) == 0
        assert "--entropy_kd.weight 2.0" in capsys.readouterr().out
        assert main(["train", "--data", "x", "--out", "y", "--method", "nobody"]) == 2
        assert "entropy_kd" in capsys.readouterr().err
    assert "entropy_kd" not in METHODS


def test_a_distance_and_a_schedule(train, capsys):
    def largest(target, source, reduction):
        return (target - source).abs().amax(-1)

    with added(DISTANCES, "largest", largest), added(SCHEDULES, "twice", (lambda progress, length: 2.0, 1.0)):
        results = train("--method", "gta", "--distance", "largest", "--weight-schedule", "twice", "--lr", "1e-3")
        assert (results["distance"], results["weight_schedule"], results["final_weight"]) == ("largest", "twice", 20.0)
        assert results["penalty"] > 0
        with pytest.raises(SystemExit):
            main(["train", "--help"])
        shown = capsys.readouterr().out
        assert "largest" in shown
        assert "twice" in shown


def test_a_command(capsys):
    def hello(name: str, *, loud: bool = False) -> None:
        """Greet somebody.

        Args:
            name: Who.
            loud: In capitals.
        """
        print(f"Hello, {name}".upper() if loud else f"Hello, {name}")

    with added(COMMANDS, "hello", Command(hello)):
        assert main(["hello", "ViT", "--loud"]) == 0
        assert capsys.readouterr().out == "HELLO, VIT\n"
        with pytest.raises(SystemExit):
            main(["--help"])
        assert "Greet somebody." in capsys.readouterr().out
