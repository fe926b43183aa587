"""What is tried of each method: every combination of an entry's lists.

The shipped grid is what the methods say of themselves (`Method.grid`), and the variants in `grid.yaml` beside this.
"""

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from gta.errors import GtaError
from gta.files import reading
from gta.methods import METHODS
from gta.methods.compose import make_methods
from gta.training.options import TrainOptions
from gta.training.stored_rows import check_reuse

VARIANTS = Path(__file__).with_name("grid.yaml")
OPTIONS = {f.name for f in fields(TrainOptions)}
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d+", re.IGNORECASE)


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
        return ",".join(f"{key}{_short(value)}" for key, value in self.values.items() if value is not None)

    def options(self, **base: Any) -> TrainOptions:
        """The options of its run: those of `base`, and its own over them."""
        settings = {name: dict(values) for name, values in base.pop("settings", {}).items()}
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


def trials_of(
    name: str, entry: Mapping[str, Any], shared: Mapping[str, Any], refused: Collection[str] = ()
) -> list[Trial]:
    """All trials of a method's entry, in its order.

    Args:
        name: of the entry; the method, unless the entry has `method`.
        entry: values, or lists of values, by option; they go over those of `shared`.
        shared: the same for every method of a study, such as the learning rates.
        refused: options that no entry may have, because they are the same for all methods.

    Raises:
        GtaError: an option that is not known or not allowed here.
    """
    entry = {**shared, **entry}
    method = entry.pop("method", name)
    for key in entry:
        if key in refused or ("." not in key and key not in OPTIONS):
            why = "is the same for all methods" if key in refused else "is not an option of gta train"
            raise GtaError(f"the entry of {name} has {key}, which {why}: leave it out.")
    varied = {key: list(map(number, values)) for key, values in entry.items() if isinstance(values, list)}
    fixed = {key: number(value) for key, value in entry.items() if key not in varied}
    return [Trial(name, method, dict(zip(varied, values, strict=True)), fixed) for values in product(*varied.values())]


def check_trials(trials: Sequence[Trial], base: Mapping[str, Any]) -> None:
    """Raise GtaError for options, together with those of `base`, that no run could use."""
    for trial in trials:
        try:
            options = trial.options(**{"data": "", "out": "", **base})
            check_reuse(options, make_methods(options))
        except (GtaError, TypeError) as error:
            kind = "" if isinstance(error, GtaError) else " has a value of the wrong kind"
            raise GtaError(f"the entry of {trial.name}, {trial.label}{kind}: {error}") from error


def number(value: Any) -> Any:
    """YAML reads 1e-5 as text."""
    return float(value) if isinstance(value, str) and _SCIENTIFIC.fullmatch(value) else value


def same_budget(plan: Mapping[str, Sequence[Trial]], budget: int | None) -> dict[str, list[Trial]]:
    """As many trials of every name: all, or `budget` of each drawn by a fixed seed. A single one is nothing to choose.

    Raises:
        GtaError: the names have different numbers of trials, or one has fewer than the budget.
    """
    counts = {name: len(trials) for name, trials in plan.items() if len(trials) > 1}
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    fewest = min(counts.values(), default=1)
    if budget is None:
        if fewest < max(counts.values(), default=1):
            raise GtaError(
                f"the grid gives some methods more trials than others ({listed}), which would favour them: give each "
                f"the same number, or a budget of {fewest} to draw as many of each."
            )
        return {name: list(trials) for name, trials in plan.items()}
    if not 1 <= budget <= fewest:
        raise GtaError(f"a budget of {budget} cannot be used: write 1 to {fewest} ({listed or 'one trial each'}).")
    drawn = {name: _drawn(len(trials), budget) for name, trials in plan.items()}
    return {name: [plan[name][i] for i in places] for name, places in drawn.items()}


def _drawn(count: int, budget: int) -> list[int]:
    return sorted(random.Random(0).sample(range(count), min(count, budget)))
