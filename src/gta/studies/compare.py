"""A fair comparison: each method's settings chosen on validation from the same number of trials, then run over seeds.

    OUT/compare.yaml   what is compared
    OUT/grid.yaml      the grid that was used
    OUT/runs/NAME/…    every run's folder; what was done is not done again
    OUT/grid.csv       every trial's validation accuracy and loss
    OUT/runs.csv       every final run
    OUT/table.csv, OUT/table.md

Trials are run with seeds of their own (from 100), the final runs with seeds 0, 1, …: no run that took part in choosing
is in the table. Choosing reads the validation accuracy, of equals the validation loss, and nothing else.
"""

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
from gta.files import atomic_write, write_text
from gta.studies.comparison import Comparison
from gta.studies.grid import Trial, read_grid, same_budget, shipped_grid, trials_of
from gta.studies.statistics import holm, mean_and_spread, paired
from gta.tables import markdown, plus_minus, write_csv
from gta.training.fit import load_for_training, train
from gta.training.run_folder import CHECKPOINT, DIVERGED, WEIGHTS, Diverged

PLAN = "compare.yaml"
FIRST_GRID_SEED = 100
MEASURES = {
    "val_top1": "val", "test_top1": "test", "object_mass": "object mass", "jaccard": "jaccard", "drift": "drift",
    "train_seconds": "seconds",
}  # fmt: skip

Row = dict[str, Any]
Runs = Mapping[int, Mapping[str, Any] | None]  # by seed, each run's results.json; None where it diverged


@dataclass(frozen=True)
class Result:
    """What a comparison found, as text.

    Attributes:
        table: a row per method.
        grid: a row per trial.
        notes: what the numbers are of.
    """

    table: list[Row]
    grid: list[Row]
    notes: str


class Score(NamedTuple):
    """What a trial is chosen by: means over its seeds, on validation."""

    top1: float
    loss: float


def compare(comparison: Comparison) -> Result:
    """Run what is missing, and write the tables.

    Raises:
        GtaError: bad input (nothing is run then), another comparison in `out`, or a method whose trials all diverged.
        KeyboardInterrupt: stopped; the same call goes on.
    """
    out, base, names = Path(comparison.out), comparison.base(), comparison.names
    grid = shipped_grid() if comparison.grid is None else read_grid(Path(comparison.grid))
    plan = same_budget({name: trials_of(grid, name, **base) for name in names}, comparison.budget)
    _check_input(comparison)
    _open_folder(out, comparison)
    used = {"lr": grid["lr"], "methods": {name: grid["methods"][name] for name in names}}
    write_text(out / "grid.yaml", yaml.safe_dump(used, sort_keys=False))
    first, then = sum(map(len, plan.values())) * comparison.grid_seeds, len(plan) * comparison.seeds
    print(f"{first} trials, then {then} final runs; what {out} has already is not run again", file=sys.stderr)

    seeds = range(FIRST_GRID_SEED, FIRST_GRID_SEED + comparison.grid_seeds)
    scores = {name: [_score(trial, base, seeds, out) for trial in trials] for name, trials in plan.items()}
    chosen = {name: _best(trials, scores[name]) for name, trials in plan.items()}
    varied = dict.fromkeys(key for trials in plan.values() for trial in trials for key in trial.values)
    trial_rows = [
        {"method": name, **varied, **trial.values, "val_top1": score and score.top1, "val_loss": score and score.loss,
         "chosen": trial is chosen[name]}
        for name, trials in plan.items()
        for trial, score in zip(trials, scores[name], strict=True)
    ]  # fmt: skip
    write_csv(out / "grid.csv", trial_rows)

    runs = {n: {s: _run(t, base, s, out, final=True) for s in range(comparison.seeds)} for n, t in chosen.items()}
    write_csv(out / "runs.csv", [{"name": n, "seed": s, **(r or {})} for n, of in runs.items() for s, r in of.items()])
    rows = _rows(runs, chosen)
    write_csv(out / "table.csv", rows)
    labels = [trial.label for trials in plan.values() for trial in trials]
    result = Result(
        [_row_as_text(row) for row in rows],
        [_trial_as_text(row, label) for row, label in zip(trial_rows, labels, strict=True)],
        _notes(comparison, plan, chosen, runs, rows[0]["baseline"]),
    )
    write_text(out / "table.md", f"{markdown(result.table)}\n{result.notes}\n\n{markdown(result.grid)}")
    return result


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


def _open_folder(out: Path, comparison: Comparison) -> None:
    """Make the folder, or check that it holds this comparison (of maybe other methods or seeds)."""
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
    with atomic_write(out / PLAN, "--out") as new:
        new.write_text(yaml.safe_dump(same, sort_keys=False), encoding="utf-8")


def _score(trial: Trial, base: Mapping[str, Any], seeds: Sequence[int], out: Path) -> Score | None:
    """The score of a trial; None as soon as a run diverged."""
    runs = []
    for seed in seeds:
        if (results := _run(trial, base, seed, out, final=False)) is None:
            return None
        runs.append(results)
    return Score(mean(r["val_top1"] for r in runs), mean(r["val_loss"] for r in runs))


def _best(trials: Sequence[Trial], scores: Sequence[Score | None]) -> Trial:
    """The trial with the best validation accuracy; of equals, as small validation sets have them, the lowest loss."""
    finite = [(score, trial) for score, trial in zip(scores, trials, strict=True) if score is not None]
    if not finite:
        name = trials[0].name
        raise GtaError(f"all {len(trials)} trials of {name} diverged: give it lower learning rates in a --grid file.")
    return max(finite, key=lambda pair: (round(pair[0].top1, 6), -pair[0].loss))[1]


def _run(trial: Trial, base: Mapping[str, Any], seed: int, out: Path, *, final: bool) -> Mapping[str, Any] | None:
    """A run's results, made now or before; None if it diverged. What only resuming needs is deleted after it.

    Of a trial (not `final`) the weights go too, and it is never tested.
    """
    folder = out / "runs" / trial.name / f"{trial.label}-seed{seed}"
    if (folder / DIVERGED).is_file():
        return None
    try:
        results = train(trial.options(**base, out=str(folder), seed=seed), resume=True, test=final)
    except Diverged as error:
        write_text(folder / DIVERGED, f"{error}\n")
        results = None
    for name in (CHECKPOINT,) if final else (CHECKPOINT, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    value = "diverged" if results is None else f"val {results['val_top1']:.1f}"
    print(f"{trial.name} {trial.label} seed {seed}: {value}", file=sys.stderr, flush=True)
    return results


def _rows(runs: Mapping[str, Runs], chosen: Mapping[str, Trial]) -> list[Row]:
    """A row per method: means, spreads, and test accuracy against the baseline's over the same seeds."""
    baseline = "plain" if "plain" in runs else next(iter(runs))
    rows: list[Row] = []
    for name, of in runs.items():
        finished = {seed: results for seed, results in of.items() if results is not None}
        row: Row = {"method": name, "chosen": chosen[name].label, "runs": len(finished)}
        for key in MEASURES:
            row[key], row[f"{key}_spread"] = mean_and_spread([r[key] for r in finished.values() if r[key] is not None])
        pairs = [
            (results["test_top1"], other["test_top1"])
            for seed, results in finished.items()
            if (other := runs[baseline][seed]) is not None and results["test_top1"] is not None
        ]
        against = paired(*zip(*pairs, strict=True)) if pairs and name != baseline else None
        row["baseline"] = baseline
        rows.append(row | {key: getattr(against, key, None) for key in ("difference", "low", "high", "p")})
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def _row_as_text(row: Row) -> Row:
    difference = None if row["difference"] is None else f"{row['difference']:+.1f}"
    if row["low"] is not None:
        difference = f"{difference} [{row['low']:+.1f}, {row['high']:+.1f}]"
    return {
        **{key: row[key] for key in ("method", "chosen", "runs")},
        **{title: plus_minus(row[key], row[f"{key}_spread"]) for key, title in MEASURES.items()},
        f"− {row['baseline']}": difference,
        "p": None if row["p_holm"] is None else f"{row['p_holm']:.3f}",
    }


def _trial_as_text(row: Row, label: str) -> Row:
    top1, loss = row["val_top1"], row["val_loss"]
    val, loss = ("diverged", None) if top1 is None else (f"{top1:.1f}", f"{loss:.3f}")
    chosen = "yes" if row["chosen"] else ""
    return {"method": row["method"], "trial": label, "val": val, "val loss": loss, "chosen": chosen}


def _notes(
    comparison: Comparison,
    plan: Mapping[str, Sequence[Trial]],
    chosen: Mapping[str, Trial],
    runs: Mapping[str, Runs],
    baseline: str,
) -> str:
    text = (
        f"Mean ± standard deviation over {comparison.seeds} seeds, of settings chosen for each method on validation "
        f"from {len(plan[baseline])} trials with {comparison.grid_seeds} other seed(s). − {baseline}: test accuracy "
        f"minus that of {baseline} over the same seeds, with its 95 % interval; p: paired t-test, corrected for the "
        "number of methods (Holm). Seconds: of training."
    )
    some = next((results for of in runs.values() for results in of.values() if results is not None), {})
    mass, jaccard = (some.get(f"source_{name}") for name in ("object_mass", "jaccard"))
    if mass is not None:
        text += f" The source: object mass {mass:.2f}, jaccard {jaccard:.2f}."
    edges = ", ".join(edge for name, trial in chosen.items() for edge in _edges(plan[name], trial))
    return text + (f" Chosen at the edge of what was tried, so that better may lie beyond: {edges}." if edges else "")


def _edges(trials: Sequence[Trial], chosen: Trial) -> Iterator[str]:
    """The values of the chosen trial that are the lowest or highest of several tried."""
    for key, value in chosen.values.items():
        tried = {v for trial in trials if isinstance(v := trial.values[key], (int, float))}
        if len(tried) > 1 and value in (min(tried), max(tried)):
            yield f"{chosen.name} {key} {value:g} ({'lowest' if value == min(tried) else 'highest'})"
