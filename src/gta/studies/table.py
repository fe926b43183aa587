"""What a study found, as tables: a row per method and share of a data set, and methods side by side over all of them.

No measure of time is in them unless the plan reports one: a study that was interrupted has the same tables, byte for
byte, as one that was not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gta.files import write_text
from gta.studies import execute
from gta.studies.grid import Trial
from gta.studies.statistics import ENOUGH, bootstrap, holm, mean_and_spread, paired, ranks
from gta.studies.study import Cell, Run, Study
from gta.tables import latex, markdown, plus_minus, write_csv

Row = dict[str, Any]
TITLES = {
    "val_top1": "val", "test_top1": "test", "object_mass": "object mass", "train_seconds": "seconds",
}  # fmt: skip
FEW = "not enough seeds"


@dataclass(frozen=True)
class Report:
    """What a study found, as text.

    Attributes:
        rows: of every method on every share of a data set.
        overview: methods by data sets, where there are several of these; else empty.
        grid: a row per trial; empty where nothing was chosen.
        notes: what the numbers are of.
        failed: by run, why.
    """

    rows: list[Row]
    overview: list[Row]
    grid: list[Row]
    notes: str
    failed: Mapping[str, str]


def write_report(study: Study) -> Report:
    """Write the tables of what is there, and return them."""
    out, rows = study.out, _rows(study)
    trials = list(_trials(study))
    if trials:
        write_csv(out / "grid.csv", trials)
    finals = [
        run for cell, name in _entries(study) for t in study.settings(cell, name) for run in study.final_runs(cell, t)
    ]
    write_csv(out / "runs.csv", [_run_row(study, run) for run in finals])
    write_csv(out / "table.csv", rows)
    failed = {str(run): execute.cause(run.folder) for run in study.wanted() if study.state(run) == "failed"}
    report = Report(
        [_as_text(study, row) for row in rows], _overview(study, rows), [_trial_text(row) for row in trials],
        _notes(study, rows), failed,
    )  # fmt: skip
    parts = [report.overview, report.rows]
    failures = "".join(f"\n- failed: {run}: {why}" for run, why in failed.items())
    shown = [markdown(part) for part in (*parts, report.grid) if part]
    shown.insert(len(shown) - bool(report.grid), f"{report.notes}{failures}\n")
    write_text(out / "table.md", "\n".join(shown))
    write_text(out / "table.tex", "\n".join(latex(part) for part in parts if part))
    return report


def _entries(study: Study) -> Iterator[tuple[Cell, str]]:
    return ((cell, name) for cell in study.cells for name in study.plan.trials)


# --- numbers


def _rows(study: Study) -> list[Row]:
    rows = []
    for cell, name in _entries(study):
        settings = study.settings(cell, name)
        rows += [_row(study, cell, trial) for trial in settings]
        if not settings:
            states = [study.state(run) for of in study.trial_runs(cell, name).values() for run in of]
            why = f"{states.count('failed')} of {len(states)} trials failed" if "failed" in states else "all diverged"
            why = f"{states.count('missing')} of {len(states)} trials missing" if "missing" in states else why
            rows.append({**_place(cell), "method": name, "settings": why, "runs": 0})
    for row, p in zip(rows, holm([row.get("p") for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def _place(cell: Cell) -> Row:
    return {"data": cell.data, "fraction": cell.fraction}


def _row(study: Study, cell: Cell, trial: Trial) -> Row:
    plan, runs = study.plan, study.final_runs(cell, trial)
    states = [study.state(run) for run in runs]
    of_seed = _finished(study, runs)
    row: Row = {
        **_place(cell), "method": trial.name, "settings": trial.label, "runs": len(of_seed),
        "diverged": states.count("diverged"), "failed": states.count("failed"),
    }  # fmt: skip
    for name in dict.fromkeys((*plan.report, plan.measure)):
        values = [results[name] for results in of_seed.values() if results.get(name) is not None]
        row[name], row[f"{name}_sd"] = mean_and_spread(values)
        row[f"{name}_low"], row[f"{name}_high"] = bootstrap(values)
    other = _baseline(study, cell, trial)
    if other is None or trial.name not in plan.compared:
        return row
    against = _finished(study, study.final_runs(cell, other))
    both = [
        (mine, theirs)
        for seed in of_seed
        if (mine := of_seed[seed].get(plan.measure)) is not None
        and (theirs := against.get(seed, {}).get(plan.measure)) is not None
    ]
    if both:
        pair = paired(*zip(*both, strict=True))
        row |= {
            "baseline": other.name, "pairs": pair.pairs, "difference": pair.difference, "difference_low": pair.low,
            "difference_high": pair.high, "effect": pair.effect, "p": pair.p,
        }  # fmt: skip
    return row


def _finished(study: Study, runs: Sequence[Run]) -> dict[int, dict[str, Any]]:
    return {run.seed: study.results(run) for run in runs if study.state(run) == "complete"}


def _baseline(study: Study, cell: Cell, trial: Trial) -> Trial | None:
    """What a trial is compared with: the baseline's, where several are reported that of the same shared settings."""
    settings = study.settings(cell, study.plan.baseline)
    if trial.name == study.plan.baseline or len(settings) < 2:
        return settings[0] if settings and trial.name != study.plan.baseline else None
    shared = study.plan.content["grid"] or ("lr",)
    same = (o for o in settings if all(o.values.get(key) == trial.values.get(key) for key in shared))
    return next(same, None)


def _trials(study: Study) -> Iterator[Row]:
    for cell, name in _entries(study):
        chosen = study.settings(cell, name)
        for label, runs in study.trial_runs(cell, name).items():
            trial = next(t for t in study.plan.trials[name] if t.label == label)
            states = {study.state(run) for run in runs}
            bad = next((s for s in ("failed", "diverged", "missing") if s in states), None)
            means = {
                key: None if bad else mean_and_spread([study.results(run)[key] for run in runs])[0]
                for key in dict.fromkeys(("val_top1", "val_loss", *study.plan.choose))
            }
            yield {**_place(cell), "method": name, "settings": label, **trial.values, **means,
                   "state": bad or "complete", "chosen": trial in chosen}  # fmt: skip


def _run_row(study: Study, run: Run) -> Row:
    results = study.results(run) if study.state(run) == "complete" else {}
    return {**_place(run.cell), "name": run.trial.name, "settings": run.trial.label, "seed": run.seed,
            "state": study.state(run), "folder": run.folder.name, **results}  # fmt: skip


# --- text


def _as_text(study: Study, row: Row) -> Row:
    plan = study.plan
    text: Row = {}
    if len(plan.data) > 1:
        text["data"] = row["data"]
    if len(plan.fractions) > 1:
        text["share"] = _share(row["fraction"])
    text |= {"method": row["method"], "settings": row["settings"] or "as they are", "runs": row["runs"]}
    if any(row.get(word) for word in ("diverged", "failed")):
        text["runs"] = ", ".join([str(row["runs"]), *(f"{row[w]} {w}" for w in ("diverged", "failed") if row[w])])
    for name in plan.report:
        text[TITLES.get(name, name)] = plus_minus(row.get(name), row.get(f"{name}_sd"))
        if name == plan.measure:
            low, high = (plus_minus(row.get(f"{name}_{end}"), None) for end in ("low", "high"))
            text["95 %"] = None if low is None else f"[{low}, {high}]"
    difference = row.get("difference")
    if difference is not None:
        text[f"− {plan.baseline}"] = f"{difference:+.1f}"
        if row["difference_low"] is not None:
            text[f"− {plan.baseline}"] += f" [{row['difference_low']:+.1f}, {row['difference_high']:+.1f}]"
        text["effect"] = None if row["effect"] is None else f"{row['effect']:+.1f}"
        text["p"] = FEW if row["pairs"] < ENOUGH else None if row["p_holm"] is None else f"{row['p_holm']:.3f}"
    else:
        text |= {f"− {plan.baseline}": None, "effect": None, "p": None}
    return text


def _share(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def _trial_text(row: Row) -> Row:
    top1, loss = row["val_top1"], row["val_loss"]
    return {"data": row["data"], "share": _share(row["fraction"]), "method": row["method"], "trial": row["settings"],
            "val": row["state"] if top1 is None else f"{top1:.1f}", "val loss": None if loss is None else f"{loss:.3f}",
            "chosen": "yes" if row["chosen"] else ""}  # fmt: skip


def _overview(study: Study, rows: Sequence[Row]) -> list[Row]:
    """Methods by data sets and shares, with their average rank; where a method has one row on each."""
    plan = study.plan
    by_place = {(row["method"], row["data"], row["fraction"]): row for row in rows}
    if len(study.cells) < 2 or len(by_place) < len(rows):
        return []
    found = _ranks(study, by_place)
    table = []
    for name in plan.trials:
        row: Row = {"method": name}
        for cell in study.cells:
            here = by_place[name, cell.data, cell.fraction]
            title = " ".join(filter(None, (cell.data, _share(cell.fraction) if len(plan.fractions) > 1 else "")))
            row[title] = plus_minus(here.get(plan.measure), here.get(f"{plan.measure}_sd"))
        table.append(row | ({"rank": f"{found[0][name]:.2f}"} if found else {}))
    return table


def _ranks(study: Study, by_place: Mapping[Any, Row]) -> tuple[dict[str, float], str] | None:
    """Average ranks by method, and what they say; None where a mean is missing or there is nothing to rank."""
    plan = study.plan
    means = [
        [by_place[name, cell.data, cell.fraction].get(plan.measure) for name in plan.trials] for cell in study.cells
    ]
    if any(mean is None for row in means for mean in row):
        return None
    sign = -1 if plan.measure.endswith("loss") else 1
    found = ranks([[sign * mean for mean in row] for row in means])  # type: ignore[operator]
    if found is None:
        return None
    of_name = dict(zip(plan.trials, found.means, strict=True))
    apart = [
        f"{better} and {worse}"
        for better in sorted(of_name, key=of_name.__getitem__)
        for worse in sorted(of_name, key=of_name.__getitem__)
        if of_name[worse] - of_name[better] > found.critical
    ]
    friedman = "" if found.p is None else f"; all equal: p = {found.p:.3f} (Friedman)"
    said = f"which these do: {', '.join(apart)}" if apart else "which none do"
    return of_name, (
        f"Ranks: averages over {found.sets} data sets and shares, 1 the best; two methods differ at the 5 % level "
        f"where theirs are more than {found.critical:.2f} apart (Nemenyi), {said}{friedman}."
    )


def _notes(study: Study, rows: Sequence[Row]) -> str:
    plan = study.plan
    tests = sum(row.get("p") is not None for row in rows)
    text = f"Mean ± standard deviation over {len(plan.seeds)} seeds; 95 %: bootstrap interval of the mean of "
    text += f"{plan.measure}. "
    counts = {len(of) for name, of in plan.trials.items() if plan.is_chosen(name)}
    if counts:
        by = ", of equals on ".join(plan.choose)
        trials = " or ".join(map(str, sorted(counts)))
        text += (
            f"Settings chosen for each method on {by} from {trials} trials with {len(plan.trial_seeds)} other seed(s). "
        )
    text += (
        f"− {plan.baseline}: {plan.measure} less that of {plan.baseline} over the same seeds, with its 95 % interval; "
        "effect: in standard deviations of that difference (d_z); p: paired t-test, corrected for the "
        f"{tests} tests of this table (Holm)."
    )
    by_place = {(row["method"], row["data"], row["fraction"]): row for row in rows}
    if len(by_place) == len(rows) and (found := _ranks(study, by_place)) is not None:
        text += f" {found[1]}"
    for cell in study.cells:
        text += _source_note(study, cell)
    edges = ", ".join(dict.fromkeys(e for cell, name in _entries(study) for e in _edges(study, cell, name)))
    return text + (f" Chosen at the edge of what was tried, so that better may lie beyond: {edges}." if edges else "")


def _source_note(study: Study, cell: Cell) -> str:
    baseline = study.plan.baseline  # first: what crops shows its source crops
    for name in sorted(study.plan.trials, key=lambda name: name != baseline):
        for trial in study.settings(cell, name):
            for results in _finished(study, study.final_runs(cell, trial)).values():
                mass, jaccard = (results.get(f"source_{key}") for key in ("object_mass", "jaccard"))
                if mass is not None:
                    where = f" on {cell.data}" if len(study.plan.data) > 1 else ""
                    return f" The source{where}: object mass {mass:.2f}, jaccard {jaccard:.2f}."
                return ""
    return ""


def _edges(study: Study, cell: Cell, name: str) -> Iterator[str]:
    """The values of the chosen trial that are the lowest or highest of several tried."""
    if not study.plan.is_chosen(name):
        return
    where = f" on {cell.data}" if len(study.plan.data) > 1 else ""
    where += f" at {_share(cell.fraction)}" if len(study.plan.fractions) > 1 else ""
    for chosen in study.settings(cell, name):
        for key, value in chosen.values.items():
            tried = {v for trial in study.plan.trials[name] if isinstance(v := trial.values[key], (int, float))}
            if len(tried) > 1 and value in (min(tried), max(tried)):
                yield f"{name} {key} {value:g} ({'lowest' if value == min(tried) else 'highest'}){where}"
