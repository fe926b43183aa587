"""The page of one run, or of several beside each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gta.errors import GtaError
from gta.report import page
from gta.report.explorer import explorer
from gta.report.gallery import gallery
from gta.report.measures import Interval, mcnemar
from gta.report.problems import Images
from gta.report.run import Predictions, RunFiles
from gta.report.summary import (
    accuracy,
    calibration,
    chance,
    class_lines,
    confusion,
    curves,
    probe,
    warnings,
)  # fmt: skip

SETTINGS = ("method", "lr", "layer_decay", "weight", "epochs", "fraction", "seed")  # told of runs that differ in them


class RunLine(NamedTuple):
    """A run in the table: difference to the first run's accuracy and its p, corrected by Holm, where comparable."""

    name: str
    settings: dict[str, Any]
    accuracy: Interval | None
    difference: float | None
    p: float | None
    val: float | None
    drift: float | None
    object_mass: float | None
    seconds: float | None


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write the page of complete runs.

    Args:
        folders: of the runs; with several, the first is what the others are compared with.
        out: HTML file.

    Returns:
        `out`.

    Raises:
        GtaError: no complete run, the same one twice, or `out` cannot be written.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise GtaError("a run was given twice: give each once.")
    runs = [RunFiles(folder) for folder in folders]
    for run, name in zip(runs, _names(folders), strict=True):
        run.name = name
    page.write(out, page.render("run.html.jinja", **content(runs)))
    return out


def content(runs: Sequence[RunFiles]) -> dict[str, Any]:
    """What the template of runs is filled with."""
    shown = [run.shown for run in runs]
    comparable = _comparable(shown)
    first, measured = runs[0], [p for p in shown if p is not None] if comparable else []
    images = Images(first.features) if first.features else None
    suspects = images.suspects() if images else None
    copies = images.copies() if images else []
    found = probe(first, measured[0]) if measured else None
    return {
        "title": first.name if len(runs) == 1 else " · ".join(run.name for run in runs),
        "runs": runs,
        "shown": measured[0] if measured else None,
        "accuracy": accuracy(measured[0]) if measured else None,
        "chance": chance(measured[0]) if measured else None,
        "probe": found,
        "warnings": warnings(first, measured[0], found, copies, suspects) if measured else [],
        "lines": run_lines(runs),
        "comparable": comparable,
        "classes": class_lines(first, measured[0]) if measured else [],
        "cells": [confusion(p) for p in measured],
        "curves": curves(runs),
        "calibrations": [(run.name, calibration(run, p)) for run, p in zip(runs, measured, strict=False)],
        "explored": explorer(runs),
        "data": {
            "classes": first.classes,
            "runs": [run.name for run in runs],
            "mistakes": int(sum(not right for right in measured[0].right)) if measured else 0,
            **(gallery(runs, measured, images, suspects or [], copies) if measured else {}),
        },
    }


def _comparable(shown: Sequence[Predictions | None]) -> bool:
    """Whether all runs were measured on the same images, with the same classes."""
    first = shown[0]
    return first is not None and all(
        p is not None
        and p.paths == first.paths
        and p.probabilities.shape == first.probabilities.shape
        and (p.labels == first.labels).all()
        for p in shown
    )


def run_lines(runs: Sequence[RunFiles]) -> list[RunLine]:
    """The table of several runs."""
    shown = [run.shown for run in runs]
    first = shown[0]
    pairs = [
        mcnemar(p.right, first.right) if p is not None and first is not None and _comparable([first, p]) else None
        for p in shown[1:]
    ]
    corrected = [None, *holm(pairs)]
    differ = [key for key in SETTINGS if len({str(run.results.get(key)) for run in runs}) > 1]
    lines = []
    for run, p, value in zip(runs, shown, corrected, strict=True):
        a = None if p is None else accuracy(p)
        apart = None if value is None or a is None or first is None else a.value - accuracy(first).value
        settings = {key: run.results.get(key) for key in differ}
        measures = (run.results.get(key) for key in ("val_top1", "drift", "object_mass", "wall_seconds"))
        lines.append(RunLine(run.name, settings, a, apart, value, *measures))
    return lines


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for how many there are (Holm 1979); None stays."""
    known = [p for p in values if p is not None]
    if not known:
        return list(values)
    from statsmodels.stats.multitest import multipletests

    corrected = iter(multipletests(known, method="holm")[1].tolist())
    return [None if p is None else next(corrected) for p in values]


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of what is above them as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]
