"""The demo's page: one HTML file with its pictures inside, made from the demo's folder alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from gta.report import page
from gta.report.pictures import embedded_file
from gta.report.run import RunFiles
from gta.report.runs import content

COLUMNS = ("source", "plain", "gta")
MEASURES = {  # name -> (label, unit, digits)
    "test_top1": ("test accuracy", " %", 1),
    "object_mass": ("object mass", "", 3),
    "jaccard": ("Jaccard", "", 3),
    "drift": ("drift", "", 3),
    "wall_seconds": ("time", " s", 0),
}


def write_report(folder: Path, out: Path) -> Path:
    """Write the page from `demo.json`, the two pictures and the first world's runs; returns `out`."""
    demo = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    first = [RunFiles(folder / "runs" / f"{name}-seed0") for name in COLUMNS[1:]]
    for run, name in zip(first, COLUMNS[1:], strict=True):
        run.name = name
    values = {
        **content(first),
        **demo["setting"],
        "title": "gta demo",
        "table": table(demo),
        "columns": COLUMNS,
        "test": demo["test"],
        "difference": _difference(demo),
        "pairs": [(p["test_top1"], g["test_top1"]) for p, g in zip(demo["plain"], demo["gta"], strict=True)],
        "seeds": len(demo["plain"]),
        "mean": {column: {name: _mean(demo[column], name) for name in MEASURES} for column in COLUMNS},
        "versions": demo["plain"][0]["versions"],
        "examples": embedded_file(folder / "examples.png"),
        "sheet": embedded_file(folder / "attention.png"),
    }
    page.write(out, page.render("demo.html.jinja", **values))
    return out


def table(demo: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Lines of the demo's table: a measure's label, and its cells for source, plain and gta."""
    return [
        (label, [_cell([run.get(name) for run in demo[column]], unit, digits) for column in COLUMNS])
        for name, (label, unit, digits) in MEASURES.items()
    ]


def verdict(demo: dict[str, Any]) -> str:
    """One sentence on the accuracy of both."""
    points, test = _difference(demo), demo["test"]
    words = f"guided fine-tuning is {abs(points):.1f} points {'ahead of' if points >= 0 else 'behind'} plain"
    if test is None:
        return f"On one world {words}; --seeds 5 tells how sure that is."
    p = "" if test["p"] is None else f", paired t-test p = {test['p']:.2g}"  # None where all differences are equal
    interval = f"95 % interval {test['low']:+.1f} to {test['high']:+.1f}"
    return f"Over {test['pairs']} worlds {words} in mean ({interval}{p})."


def _difference(demo: dict[str, Any]) -> float:
    return _mean(demo["gta"], "test_top1") - _mean(demo["plain"], "test_top1")


def _mean(runs: Sequence[dict[str, Any]], name: str) -> float:
    return mean(run.get(name) or 0.0 for run in runs)


def _cell(values: Sequence[float | None], unit: str, digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" [{min(known):.{digits}f}, {max(known):.{digits}f}]" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{unit}{spread}"
