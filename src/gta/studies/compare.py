"""A fair fight: each method's settings chosen on validation with the same number of trials, then run over seeds.

    OUT/compare.yaml   what is compared
    OUT/grid.yaml      the grid that was used
    OUT/runs/NAME/…    every run's folder; what was done is not done again
    OUT/grid.csv       every trial's validation accuracy and loss
    OUT/runs.csv       every final run
    OUT/table.csv, OUT/table.md

Trials are run with seeds of their own (from 100), the final runs with seeds 0, 1, …: no run that took part in choosing
is in the table. Choosing reads the validation accuracy, of equals the validation loss, and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import yaml

from gta.data.datasets import resolved
from gta.data.reading import read_photos
from gta.errors import GtaError
from gta.files import write_text
from gta.methods.compose import make_methods
from gta.studies.comparison import Comparison
from gta.studies.grid import SHIPPED, Trial, read_grid, same_budget, trials_of
from gta.studies.statistics import holm, mean_and_spread, paired
from gta.studies.tables import markdown, plus_minus, write_csv
from gta.training.fit import load_for_training, train
from gta.training.module import Diverged
from gta.training.run_folder import CHECKPOINT, WEIGHTS
from gta.training.stored_rows import check_reuse

PLAN = "compare.yaml"
DIVERGED = "diverged.txt"
FIRST_GRID_SEED = 100
MEASURES = {
    "val_top1": "val", "test_top1": "test", "object_mass": "object mass", "jaccard": "jaccard", "drift": "drift",
    "train_seconds": "seconds",
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a comparison found; rows as they are shown.

    Attributes:
        table: a row per method.
        grid: a row per trial.
        notes: what the numbers are of.
    """

    table: list[dict[str, Any]]
    grid: list[dict[str, Any]]
    notes: str


def compare(comparison: Comparison) -> Result:
    """Run what is missing, and write the tables.

    Raises:
        GtaError: bad input (nothing is run then), another comparison in `out`, or a method whose trials all diverged.
        KeyboardInterrupt: stopped; the same call goes on.
    """
    out = Path(comparison.out)
    grid = read_grid(SHIPPED if comparison.grid is None else Path(comparison.grid))
    plan = same_budget({name: trials_of(grid, name) for name in comparison.names}, comparison.budget)
    base = comparison.base()
    for trials in plan.values():
        for trial in trials:
            options = trial.options(**base, out="")  # refuses what is out of range before anything is run
            check_reuse(options, make_methods(options))
    _check_input(comparison)
    _open(comparison, out)
    used = {"lr": grid["lr"], "methods": {name: grid["methods"][name] for name in comparison.names}}
    write_text(out / "grid.yaml", yaml.safe_dump(used, sort_keys=False))
    first, then = sum(map(len, plan.values())) * comparison.grid_seeds, len(plan) * comparison.seeds
    print(f"{first} trials, then {then} final runs; what {out} has already is not run again", file=sys.stderr)

    tried = {name: [_try(trial, comparison, base, out) for trial in trials] for name, trials in plan.items()}
    chosen = {name: _best(name, plan[name], values) for name, values in tried.items()}
    grid_rows = [
        {
            "method": name,
            **{k: trial.values.get(k) for k in dict.fromkeys(k for ts in plan.values() for t in ts for k in t.values)},
            "val_top1": score and score.top1,
            "val_loss": score and score.loss,
            "chosen": trial is chosen[name],
        }
        for name, trials in plan.items()
        for trial, score in zip(trials, tried[name], strict=True)
    ]
    write_csv(out / "grid.csv", grid_rows)

    runs = {
        name: {seed: _run(trial, base, seed, out, keep=True) for seed in range(comparison.seeds)}
        for name, trial in chosen.items()
    }
    write_csv(out / "runs.csv", [_run_row(name, seed, r) for name, of in runs.items() for seed, r in of.items()])
    numbers = _numbers(runs, chosen)
    write_csv(out / "table.csv", numbers)
    shown, notes = [_shown(row) for row in numbers], _notes(comparison, plan, chosen, runs)
    grid_shown = [
        {
            "method": name,
            "trial": trial.label,
            "val": "diverged" if score is None else f"{score.top1:.1f}",
            "val loss": score and f"{score.loss:.3f}",
            "chosen": "yes" if trial is chosen[name] else "",
        }
        for name, trials in plan.items()
        for trial, score in zip(trials, tried[name], strict=True)
    ]
    write_text(out / "table.md", f"{markdown(shown)}\n{notes}\n\n{markdown(grid_shown)}")
    return Result(shown, grid_shown, notes)


def _check_input(comparison: Comparison) -> None:
    """Raise GtaError for data or a source that no run could use, before a folder is made for them."""
    c = comparison
    photos = read_photos(c.data, fraction=c.fraction, seed=FIRST_GRID_SEED, skip_unreadable=c.skip_unreadable)
    if not photos.val:
        raise GtaError(
            f"{c.data} has no validation image to choose the settings on: add val/CLASS/, or enough training images "
            "for a tenth of each class to be held out."
        )
    load_for_training(c.source, c.image_size, c.heads)


def _open(comparison: Comparison, out: Path) -> None:
    """Make the folder, or see that it holds this comparison (of maybe other methods or seeds)."""
    same = {**comparison.base(), "grid_seeds": comparison.grid_seeds, "budget": comparison.budget}
    same["data"] = resolved(comparison.data)
    del same["workers"], same["reuse_dir"]
    if (out / PLAN).is_file():
        before = yaml.safe_load((out / PLAN).read_text(encoding="utf-8"))
        for key, value in same.items():
            if before.get(key) != value:
                raise GtaError(
                    f"--out {out} holds a comparison with {key}={before.get(key)}, but {key}={value} was given: give "
                    "another --out."
                )
        return
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise GtaError(f"--out {out} is not empty and holds no comparison (no {PLAN}): give a new folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / PLAN, yaml.safe_dump(same, sort_keys=False))
    except OSError as error:
        raise GtaError(f"--out {out} cannot be made: {error.strerror or error}.") from error


class Score(NamedTuple):
    """What a trial is chosen by: means over its seeds, on validation."""

    top1: float
    loss: float


def _try(trial: Trial, comparison: Comparison, base: Mapping[str, Any], out: Path) -> Score | None:
    """The score of a trial; None if a run diverged."""
    runs = []
    for seed in range(FIRST_GRID_SEED, FIRST_GRID_SEED + comparison.grid_seeds):
        results = _run(trial, base, seed, out, keep=False)
        if results is None:
            return None
        runs.append(results)
    return Score(mean(r["val_top1"] for r in runs), mean(r["val_loss"] for r in runs))


def _best(name: str, trials: Sequence[Trial], scores: Sequence[Score | None]) -> Trial:
    """The trial with the best validation accuracy; of equals, as small validation sets have them, the lowest loss."""
    finite = [(score, trial) for trial, score in zip(trials, scores, strict=True) if score is not None]
    if not finite:
        raise GtaError(f"all {len(trials)} trials of {name} diverged: give it lower learning rates in a --grid file.")
    return max(finite, key=lambda pair: (round(pair[0].top1, 6), -pair[0].loss))[1]


def _run(trial: Trial, base: Mapping[str, Any], seed: int, out: Path, *, keep: bool) -> dict[str, Any] | None:
    """A run's results, made now or before; None if it diverged. What only resuming needs is deleted after it.

    Of a trial (not `keep`) the weights go too, and it is never tested.
    """
    folder = out / "runs" / trial.name / f"{trial.label}-seed{seed}"
    if (folder / DIVERGED).is_file():
        return None
    try:
        results = train(trial.options(**base, out=str(folder), seed=seed), resume=True, test=keep)
    except Diverged as error:
        write_text(folder / DIVERGED, f"{error}\n")
        results = None
    for name in (CHECKPOINT, *(() if keep else (WEIGHTS,))):
        (folder / name).unlink(missing_ok=True)
    value = "diverged" if results is None else f"val {results['val_top1']:.1f}"
    print(f"{trial.name} {trial.label} seed {seed}: {value}", file=sys.stderr, flush=True)
    return results


def _run_row(name: str, seed: int, results: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"name": name, "seed": seed, **(results or {})}


def _numbers(
    runs: Mapping[str, Mapping[int, Mapping[str, Any] | None]], chosen: Mapping[str, Trial]
) -> list[dict[str, Any]]:
    """A row per method: means, spreads, and test accuracy against the baseline's over the same seeds."""
    baseline = "plain" if "plain" in runs else next(iter(runs))
    rows: list[dict[str, Any]] = []
    for name, of in runs.items():
        finished = {seed: r for seed, r in of.items() if r is not None}
        row: dict[str, Any] = {"method": name, "chosen": chosen[name].label, "runs": len(finished)}
        for key in MEASURES:
            values = [r[key] for r in finished.values() if r[key] is not None]
            row[key], row[f"{key}_spread"] = mean_and_spread(values)
        both = [
            (r["test_top1"], other["test_top1"])
            for seed, r in finished.items()
            if (other := runs[baseline][seed]) is not None and r["test_top1"] is not None
        ]
        against = None if name == baseline or not both else paired(*map(list, zip(*both, strict=True)))
        row |= {"baseline": baseline, **dict.fromkeys(("difference", "low", "high", "p"))}
        if against is not None:
            row |= {k: getattr(against, k) for k in ("difference", "low", "high", "p")}
        rows.append(row)
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is read."""
    interval = None if row["low"] is None else f"[{row['low']:+.1f}, {row['high']:+.1f}]"
    return {
        "method": row["method"],
        "chosen": row["chosen"],
        "runs": row["runs"],
        **{title: plus_minus(row[key], row[f"{key}_spread"]) for key, title in MEASURES.items()},
        f"− {row['baseline']}": None
        if row["difference"] is None
        else f"{row['difference']:+.1f} {interval or ''}".strip(),
        "p": None if row["p_holm"] is None else f"{row['p_holm']:.3f}",
    }


def _notes(
    comparison: Comparison,
    plan: Mapping[str, Sequence[Trial]],
    chosen: Mapping[str, Trial],
    runs: Mapping[str, Mapping[int, Mapping[str, Any] | None]],
) -> str:
    baseline = "plain" if "plain" in runs else next(iter(runs))
    some = next((r for of in runs.values() for r in of.values() if r is not None), {})
    trials = len(next(iter(plan.values())))
    text = (
        f"Mean ± standard deviation over {comparison.seeds} seeds, of settings chosen for each method on validation "
        f"from {trials} trials with {comparison.grid_seeds} other seed(s). − {baseline}: test accuracy minus that of "
        f"{baseline} over the same seeds, with its 95 % interval; p: paired t-test, corrected for the number of "
        "methods (Holm). Seconds: of training."
    )
    if some.get("source_object_mass") is not None:
        text += f" The source: object mass {some['source_object_mass']:.2f}, jaccard {some['source_jaccard']:.2f}."
    edges = [edge for name, trial in chosen.items() for edge in _edges(plan[name], trial)]
    if edges:
        text += f" Chosen at the edge of what was tried, so that better may lie beyond: {', '.join(edges)}."
    return text


def _edges(trials: Sequence[Trial], chosen: Trial) -> Iterator[str]:
    """The values of the chosen trial that are the lowest or highest of several tried."""
    for key, value in chosen.values.items():
        tried = {v for trial in trials if isinstance(v := trial.values[key], (int, float))}
        if len(tried) > 1 and value in (min(tried), max(tried)):
            yield f"{chosen.name} {key} {value:g} ({'lowest' if value == min(tried) else 'highest'})"
