"""The grid of a comparison: what is tried of each method.

The shipped one is what the methods say of themselves (`Method.grid`), and the variants in `grid.yaml` beside this file.
"""

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from gta.errors import GtaError
from gta.files import reading
from gta.methods import METHODS
from gta.methods.compose import make_methods
from gta.studies.comparison import Comparison
from gta.training.options import TrainOptions
from gta.training.stored_rows import check_reuse

VARIANTS = Path(__file__).with_name("grid.yaml")
OPTIONS = {f.name for f in fields(TrainOptions)}
SAME_FOR_ALL = OPTIONS & {f.name for f in fields(Comparison)}
SAME_FOR_ALL |= {"settings", "seed", "val_every", "devices", "subset_list", "download"}


@dataclass(frozen=True)
class Trial:
    """One combination of a method's grid.

    Attributes:
        name: in the grid's `methods`.
        method: the method that name stands for.
        values: what is varied, by option; `method.field` for a method's own.
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
        settings: dict[str, dict[str, Any]] = {}
        for key, value in {**self.fixed, **self.values}.items():
            part, dot, name = key.partition(".")
            if dot:
                settings.setdefault(part, {})[name] = value
            else:
                base[key] = value
        return TrainOptions(**base, method=self.method, settings=settings)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("/", "_")


def shipped_grid() -> dict[str, Any]:
    """Every method's own grid and the variants, in the form of a grid file."""
    variants = read_grid(VARIANTS)
    own = {name: {key: list(values) for key, values in METHODS[name].grid.items()} for name in METHODS}
    return {"lr": variants["lr"], "methods": own | variants["methods"]}


def read_grid(path: Path) -> dict[str, Any]:
    """A grid file: `lr`, a list of learning rates, and `methods`, an entry `{option: values}` by name.

    Raises:
        GtaError: no such file, or one of another form.
    """
    with reading(path, "YAML", "Write what OUT/grid.yaml of a comparison has."):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    match content:
        case {"lr": list(), "methods": dict(entries), **more} if not more:
            for name in entries:
                if not re.fullmatch(r"[A-Za-z0-9_][\w+.-]*", str(name)):  # a folder is called by it
                    raise GtaError(f"--grid {path} has an entry {str(name)[:60]!r}: write names of letters and digits.")
            if all(isinstance(name, str) and isinstance(entry, dict) for name, entry in entries.items()):
                return content
    raise GtaError(f"--grid {path} is not a grid: write lr: [...] and methods: {{NAME: {{OPTION: [...]}}}}.")


def trials_of(grid: Mapping[str, Any], name: str, **base: Any) -> list[Trial]:
    """All trials of a name in a grid, in its order; every one's options are checked, together with those of `base`.

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
    for key in entry:
        if key in SAME_FOR_ALL or ("." not in key and key not in OPTIONS):
            why = "is the same for all methods" if key in SAME_FOR_ALL else "is not an option of gta train"
            raise GtaError(f"the grid's entry {name} has {key}, which {why}: leave it out.")
    varied = {key: list(map(_number, values)) for key, values in entry.items() if isinstance(values, list)}
    fixed = {key: _number(value) for key, value in entry.items() if key not in varied}
    combinations = (dict(zip(varied, values, strict=True)) for values in product(*varied.values()))
    trials = [Trial(name, method, values, fixed) for values in combinations]
    for trial in trials:
        try:
            options = trial.options(**{"data": "", "out": "", **base})
            check_reuse(options, make_methods(options))
        except (GtaError, TypeError) as error:
            kind = "" if isinstance(error, GtaError) else " has a value of the wrong kind"
            raise GtaError(f"the grid's entry {name}, {trial.label}{kind}: {error}") from error
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
    fewest, listed = min(counts.values()), ", ".join(f"{name} {count}" for name, count in counts.items())
    if budget is None:
        if fewest < max(counts.values()):
            raise GtaError(
                f"the grid gives some methods more trials than others ({listed}), which would favour them: give each "
                f"the same number, or --budget {fewest} to draw as many of each."
            )
        return {name: list(trials) for name, trials in plan.items()}
    if not 1 <= budget <= fewest:
        raise GtaError(f"--budget {budget} cannot be used: write 1 to {fewest} ({listed}).")
    drawn = {name: random.Random(0).sample(range(len(trials)), budget) for name, trials in plan.items()}
    return {name: [plan[name][i] for i in sorted(places)] for name, places in drawn.items()}
