"""The pictures of docs/questions.md and of the study on-top in docs/results.md, from the studies that they name.

    python benchmarks/questions.py --studies runs --out docs/pictures

Reads table.csv and runs.csv of the studies in STUDIES, by the names of their plans, and what benchmarks/moved.py wrote:
freedom/heads.csv and why/moved.csv. What is missing is left out. Dots and ticks are seeds, bands and bars the 95 %
intervals of the tables.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gta.tables import read_csv

INK, GREY = "#1f2328", "#8c959f"
COLOURS = ("#2f6f4f", "#c2562d", "#35618f", "#9a7a1f", "#7a4a86", "#4d8f8f", "#8f3d4d", "#5d6b2f", "#444c56", "#b08968")
WEIGHTS = ("lambda 0.1", "lambda 1", "lambda 10", "lambda 100", "auto")
Row = Mapping[str, str]


def figure(width: float, height: float) -> Figure:
    made = Figure(figsize=(width, height), dpi=150, facecolor="white")
    made.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    return made


def tidy(axis: Any, title: str, x: str = "", y: str = "") -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8.5, colors=INK)
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axis.set_xlabel(x, fontsize=8.5, color=INK)
    axis.set_ylabel(y, fontsize=8.5, color=INK)


def of(rows: Iterable[Row], **keys: str) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in keys.items())]


def band(row: Row, measure: str = "test_top1") -> tuple[float, float, float]:
    """Mean and the ends of its interval."""
    return float(row[measure]), float(row[f"{measure}_low"]), float(row[f"{measure}_high"])


def over_weights(
    axis: Any, rows: list[Row], name: str, colour: str, measure: str = "test_top1", at: float = 4.2
) -> None:
    """Fixed weights as a line with its band, auto beside them, plain (if it is there) as a dashed line."""
    found = {row["method"]: band(row, measure) for row in rows}
    fixed = [found[w] for w in WEIGHTS[:4]]
    axis.plot(range(4), [f[0] for f in fixed], "-o", color=colour, markersize=4, linewidth=1.4, label=name)
    axis.fill_between(range(4), [f[1] for f in fixed], [f[2] for f in fixed], color=colour, alpha=0.15, linewidth=0)
    middle, low, high = found["auto"]
    axis.errorbar([at], [middle], [[middle - low], [high - middle]], fmt="D", color=colour, markersize=5, linewidth=1.4)
    if "plain" in found:
        axis.axhline(found["plain"][0], color=colour, linewidth=1, linestyle=(0, (4, 3)))
    axis.set_xticks([0, 1, 2, 3, 4.2], ["0.1", "1", "10", "100", "auto"])


def dots(axis: Any, names: list[str], values: list[tuple[float, float, float]], seeds: list[list[float]]) -> None:
    for y, ((middle, low, high), each) in enumerate(zip(values, seeds, strict=True)):
        axis.plot(each, [y] * len(each), "|", color=GREY, markersize=8)
        axis.plot([low, high], [y, y], color=COLOURS[0], linewidth=2)
        axis.plot(middle, y, "o", color=COLOURS[0], markersize=6)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="x", color="#eaeef2")


def freedom(study: Path) -> Figure:
    rows = read_csv(study / "table.csv")
    made = figure(11, 3.6)
    left, right = made.subplots(1, 2)
    for colour, data in zip(COLOURS, ("species", "ground", "both"), strict=False):
        over_weights(left, of(rows, data=data), f"the class is {data}", colour)
        over_weights(right, of(rows, data=data), data, colour, "drift")
    tidy(left, "Test accuracy, % (dashed: plain)", "λ")
    tidy(right, "Drift of the attention (dashed: plain)", "λ")
    right.set_yscale("log")
    left.legend(frameon=False, fontsize=8.5)
    return made


def heads(study: Path) -> Figure:
    """Drift by layer and head, a row of panels for each method, a column for each task."""
    rows = read_csv(study / "heads.csv")
    places = [key for key in rows[0] if "." in key]
    layers, each = (1 + max(int(place.split(".")[i]) for place in places) for i in (0, 1))
    tasks, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("data", "method"))
    made = figure(3.4 * len(tasks), 2.8 * len(methods))
    for axis, (method, task) in zip(
        made.subplots(len(methods), len(tasks), squeeze=False).flat,
        ((method, task) for method in methods for task in tasks),
        strict=True,
    ):
        (row,) = of(rows, method=method, data=task)
        grid = np.array([[float(row[f"{i}.{j}"]) for j in range(each)] for i in range(layers)])
        axis.imshow(np.log10(grid), cmap="YlGn", aspect="auto", vmin=-3, vmax=3.5)
        for (i, j), value in np.ndenumerate(grid):
            colour = "white" if value > 80 else INK
            axis.text(
                j,
                i,
                f"{value:.0f}" if value >= 10 else f"{value:.2g}",
                ha="center",
                va="center",
                fontsize=7,
                color=colour,
            )
        tidy(
            axis,
            f"{method}, the class is {task}",
            "head" if method == methods[-1] else "",
            "layer" if task == tasks[0] else "",
        )
        axis.spines[:].set_visible(False)
    return made


def data(study: Path) -> Figure:
    rows = read_csv(study / "table.csv")
    made = figure(11, 3.8)
    titles = {"near": "Species of the pre-training", "far": "New species", "other": "New species, thermal camera"}
    for axis, (domain, title) in zip(made.subplots(1, 3, sharey=True), titles.items(), strict=True):
        for i, count in enumerate((16, 8, 4, 2)):
            name = f"{count} images a class"
            over_weights(axis, of(rows, data=f"{domain} {count}"), name, COLOURS[i], at=3.9 + 0.2 * i)
        tidy(axis, title, "λ", "test accuracy, %" if domain == "near" else "")
    axis.legend(frameon=False, fontsize=8)
    return made


def by_method(study: Path) -> Figure:
    """Every method's seeds and interval; a panel for each data set."""
    rows, runs = (read_csv(study / name) for name in ("table.csv", "runs.csv"))
    sets = list(dict.fromkeys(row["data"] for row in rows))
    names = list(dict.fromkeys(row["method"] for row in rows))
    made = figure(2.2 + 2.6 * max(len(sets), 2), 0.9 + 0.32 * len(names))
    axes = made.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axis, here in zip(axes, sets, strict=True):
        chosen = of(rows, data=here)
        seeds = [[float(r["test_top1"]) for r in of(runs, data=here, name=n, state="complete")] for n in names]
        dots(axis, names, [band(row) for row in chosen], seeds)
        tidy(axis, here if len(sets) > 1 else "Test accuracy, %", "test accuracy, %" if len(sets) > 1 else "")
    return made


def where(study: Path) -> Figure:
    """Difference to plain of every guide, with its interval."""
    rows = [row for row in read_csv(study / "table.csv") if row.get("difference")]
    quantities = list(dict.fromkeys(row["method"].split(", ")[0] for row in rows))
    made = figure(11, 4)
    for axis, quantity in zip(made.subplots(1, len(quantities), sharex=True, sharey=True), quantities, strict=True):
        here = [row for row in rows if row["method"].startswith(f"{quantity},")]
        for y, row in enumerate(here):
            middle, low, high = (float(row[f"difference{end}"]) for end in ("", "_low", "_high"))
            colour = COLOURS[0] if row["method"].endswith("constant") else COLOURS[1]
            axis.plot([low, high], [y, y], color=colour, linewidth=1.6)
            axis.plot(middle, y, "o", color=colour, markersize=5)
        axis.axvline(0, color=INK, linewidth=0.8)
        axis.set_yticks(range(len(here)), [row["method"].partition(", ")[2] for row in here])
        axis.set_ylim(len(here) - 0.5, -0.5)
        tidy(axis, quantity, "points over plain")
    return made


def why(study: Path) -> Figure:
    rows = read_csv(study / "moved.csv")
    made = figure(8.5, 4.6)
    axis = made.subplots()
    for colour, name in zip(COLOURS, dict.fromkeys(row["method"] for row in rows), strict=False):
        xs, ys = ([float(row[key]) for row in of(rows, method=name)] for key in ("features", "test_top1"))
        axis.plot(xs, ys, "o", color=colour, markersize=7, alpha=0.85, label=name)
    axis.set_xscale("log")
    tidy(axis, "Test accuracy, %, against how far the features moved", "1 - cosine to the source's features")
    axis.legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
    return made


PICTURES: dict[str, tuple[str, str, Callable[[Path], Figure]]] = {  # file: study, what it is drawn from, by whom
    "pretraining": ("pretraining", "table.csv", by_method),
    "freedom": ("freedom", "table.csv", freedom),
    "heads": ("freedom", "heads.csv", heads),
    "data": ("weight-and-data", "table.csv", data),
    "schedule": ("distance-and-schedule", "table.csv", by_method),
    "where": ("where-it-helps", "table.csv", where),
    "why": ("why", "moved.csv", why),
    "on-top": ("on-top", "table.csv", by_method),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name, (study, needs, drawn_by) in PICTURES.items():
        if (given.studies / study / needs).is_file():
            drawn_by(given.studies / study).savefig(given.out / f"{name}.png")
            print(given.out / f"{name}.png")


if __name__ == "__main__":
    main()
