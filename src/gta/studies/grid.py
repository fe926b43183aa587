"""The grid of a comparison: what is tried of each method. The shipped one is `grid.yaml` beside this file."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from gta.errors import GtaError
from gta.methods.compose import make_methods
from gta.training.options import TrainOptions

SHIPPED = Path(__file__).with_name("grid.yaml")
SAME_FOR_ALL = frozenset(
    "data out source heads settings fraction image_size epochs batch_size precision seed val_every workers devices "
    "skip_unreadable subset_list download".split()
)


@dataclass(frozen=True)
class Trial:
    """One combination of a method's grid.

    Attributes:
        name: in the grid's `methods`.
        method: the method that name stands for.
        values: what is varied, by option; `part.field` for a method's own.
        fixed: what the entry sets for all its trials.
    """

    name: str
    method: str
    values: Mapping[str, Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Short and unique within the name: lr3e-05,weight10."""
        return ",".join(f"{key}{_short(value)}" for key, value in self.values.items())

    def options(self, **base: Any) -> TrainOptions:
        """The options of its run."""
        plain: dict[str, Any] = {}
        settings: dict[str, dict[str, Any]] = {}
        for key, value in {**self.fixed, **self.values}.items():
            part, dot, name = key.partition(".")
            if dot:
                settings.setdefault(part, {})[name] = value
            else:
                plain[key] = value
        return TrainOptions(**base, **plain, method=self.method, settings=settings)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("/", "_")


def read_grid(path: Path) -> dict[str, Any]:
    """A grid file as it is.

    Raises:
        GtaError: no such file, or one without `lr` and `methods`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GtaError(f"--grid {path} cannot be read: {error}") from error
    if not (isinstance(content, dict) and set(content) == {"lr", "methods"} and _is_plan(**content)):
        raise GtaError(f"--grid {path} is no grid: write lr: [...] and methods: {{NAME: {{OPTION: [...]}}}}.")
    return content


def _is_plan(lr: Any, methods: Any) -> bool:
    return (
        isinstance(lr, list)
        and isinstance(methods, dict)
        and all(isinstance(entry, dict) for entry in methods.values())
    )


def trials_of(grid: Mapping[str, Any], name: str) -> list[Trial]:
    """All trials of a name in a grid, in its order; every one's options are checked.

    Raises:
        GtaError: the grid has no such name, or an option in it that is not known, out of range, or part of what a
            comparison keeps the same for all.
    """
    if name not in grid["methods"]:
        raise GtaError(
            f"the grid has no method {name!r}: it has {', '.join(grid['methods'])}. Write an entry for it into a file "
            "and give that with --grid."
        )
    entry = {"lr": grid["lr"], **grid["methods"][name]}
    method = entry.pop("method", name)
    known = {f.name for f in fields(TrainOptions)} - SAME_FOR_ALL - {"method"}
    for key in entry:
        if "." not in key and key not in known:
            why = "is the same for all methods" if key in SAME_FOR_ALL else "is no option of gta train"
            raise GtaError(f"the grid's entry {name} has {key}, which {why}: leave it out.")
    varied = {k: [_number(v) for v in values] for k, values in entry.items() if isinstance(values, list)}
    fixed = {k: _number(v) for k, v in entry.items() if not isinstance(v, list)}
    trials = [
        Trial(name, method, dict(zip(varied, values, strict=True)), fixed) for values in product(*varied.values())
    ]
    for trial in trials:
        try:
            make_methods(trial.options(data="", out=""))
        except GtaError as error:
            raise GtaError(f"the grid's entry {name}, {trial.label}: {error}") from error
        except TypeError as error:
            raise GtaError(f"the grid's entry {name}, {trial.label} has a value of the wrong kind: {error}") from error
    return trials


def _number(value: Any) -> Any:
    """YAML reads 1e-5 as text."""
    try:
        return float(value) if isinstance(value, str) and math.isfinite(float(value)) else value
    except ValueError:
        return value


def same_budget(plan: Mapping[str, Sequence[Trial]], budget: int | None) -> dict[str, list[Trial]]:
    """As many trials of every name: all, or `budget` of each drawn by a fixed seed.

    Raises:
        GtaError: the names have different numbers of trials, or one has fewer than the budget.
    """
    counts = {name: len(trials) for name, trials in plan.items()}
    if budget is None:
        if len(set(counts.values())) > 1:
            raise GtaError(
                f"the grid gives some methods more trials than others ({_listed(counts)}), which would favour them: "
                f"give each the same number, or --budget {min(counts.values())} to draw as many of each."
            )
        return {name: list(trials) for name, trials in plan.items()}
    if not 1 <= budget <= min(counts.values()):
        raise GtaError(f"--budget {budget} cannot be used: write 1 to {min(counts.values())} ({_listed(counts)}).")
    chosen = {name: random.Random(0).sample(range(len(trials)), budget) for name, trials in plan.items()}
    return {name: [trials[i] for i in sorted(chosen[name])] for name, trials in plan.items()}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
