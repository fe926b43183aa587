"""The demo's page: one HTML file with its pictures inside, made from the demo's folder alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from gta.files import write_text

METHODS = ("plain", "gta")
MEASURES = {  # name -> (label, unit, digits)
    "test_top1": ("test accuracy", " %", 1),
    "object_mass": ("object mass", "", 3),
    "jaccard": ("Jaccard", "", 3),
    "drift": ("drift", "", 3),
    "wall_seconds": ("time", " s", 0),
}


def write_report(folder: Path) -> Path:
    """Write `report.html` from `demo.json`, `examples.png` and `attention.png`; returns its path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    environment = Environment(
        loader=PackageLoader("gta.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("demo.html.jinja").render(
        table=table(found),
        columns=["source", *METHODS],
        test=found["test"],
        difference=_difference(found),
        pairs=_pairs(found),
        seeds=len(found["plain"]),
        mean={m: {k: _mean(found, m, k) for k in MEASURES} for m in ("source", *METHODS)},
        chance=100 / found["setting"]["world"]["classes"],
        world=found["setting"]["world"],
        common=found["setting"]["common"],
        chosen=found["setting"]["chosen"],
        versions=found["plain"][0]["versions"],
        examples=_embedded(folder / "examples.png"),
        attention=_embedded(folder / "attention.png"),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def table(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Lines of the demo's table: a measure's label, and its cells for source, plain and gta."""
    return [
        (label, [_cell([line.get(name) for line in found[m]], unit, digits) for m in ("source", *METHODS)])
        for name, (label, unit, digits) in MEASURES.items()
    ]


def verdict(found: dict[str, Any]) -> str:
    """One sentence on the accuracy of both."""
    points = _difference(found)
    words = f"guided fine-tuning is {abs(points):.1f} points {'ahead of' if points >= 0 else 'behind'} plain"
    test = found["test"]
    if test is None:
        return f"On one world {words}; --seeds 5 tells how sure that is."
    sure = f"95 % interval {test['low']:+.1f} to {test['high']:+.1f}"
    if test["p"] is not None:  # it is where all differences are equal
        sure += f", paired t-test p = {test['p']:.2g}"
    return f"Over {test['pairs']} worlds {words} in mean ({sure})."


def _difference(found: dict[str, Any]) -> float:
    return _mean(found, "gta", "test_top1") - _mean(found, "plain", "test_top1")


def _mean(found: dict[str, Any], method: str, name: str) -> float:
    return mean(line.get(name) or 0.0 for line in found[method])


def _pairs(found: dict[str, Any]) -> list[tuple[float, float]]:
    return [(p["test_top1"], g["test_top1"]) for p, g in zip(found["plain"], found["gta"], strict=True)]


def _cell(values: Sequence[float | None], unit: str, digits: int) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    if len(known) == 1:
        return f"{known[0]:.{digits}f}{unit}"
    return f"{mean(known):.{digits}f}{unit} [{min(known):.{digits}f}, {max(known):.{digits}f}]"


def _embedded(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
