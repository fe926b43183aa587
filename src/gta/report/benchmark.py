"""The tables and the picture of `gta bench`, made from its bench.json alone."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from gta.files import atomic_write, write_text
from gta.report import page
from gta.report.pictures import embedded_file
from gta.tables import markdown

GREY, GREEN, RED, BLUE = "#6b7280", "#1a7f37", "#b42318", "#1d4ed8"
MEGA = 1e6
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # so that no line runs through a number
PARTS = {
    "steps": "Training step",
    "loop": "The loop around the step",
    "whole_maps": "Whole maps",
    "layers": "Growth with guided layers",
    "tokens": "Growth with patches",
}
# of a row's field; left out where no row of a table has it
COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "ms": ("median_seconds", lambda s: f"{1e3 * s:.1f}"),
    "images/s": ("images_per_second", "{:.1f}".format),
    "waiting for images": ("waiting", "{:.1%}".format),
    "saved MB": ("saved_bytes", lambda b: f"{b / MEGA:.1f}"),
    "peak MB": ("peak_bytes", lambda b: f"{b / MEGA:.1f}"),
    "source MB": ("source_bytes", lambda b: f"{b / MEGA:.1f}"),
    "MFLOPs an image": ("flops_per_image", lambda f: f"{f / MEGA:.4g}"),
    "FLOPs ratio": ("flops_ratio", "{:.3f}".format),
    "ratio / FLOPs": ("over_flops", "{:.3f}".format),
    "penalty off by": ("penalty_off", lambda off: ", ".join(f"{o:.0e} ({how})" for how, o in off.items()) or "–"),
    "off by": ("off", lambda off: ", ".join(f"{o:.0e} ({how})" for how, o in off.items())),
}


class Table(NamedTuple):
    """One of the tables, as it is read: values are text, or None for none."""

    title: str
    rows: list[dict[str, str | None]]
    notes: list[str]


def write_report(folder: Path) -> None:
    """Write `bench.md`, `bench.png` and `bench.html` from `bench.json`."""
    found = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    parts = [f"# What guidance costs here\n\n{where(found)}\n"]
    for title, rows, notes in tables(found):
        parts.append(f"## {title}\n\n{markdown(rows)}\n" + "".join(f"- {note}\n" for note in notes))
    write_text(folder / "bench.md", "\n".join(parts))
    draw(found, folder / "bench.png")
    values = {"title": "gta bench", "where": where(found), "tables": tables(found)}
    picture = embedded_file(folder / "bench.png")
    page.write(folder / "bench.html", page.render("bench.html.jinja", **values, picture=picture))


def where(found: Mapping[str, Any]) -> str:
    """One sentence: model, images, machine."""
    s = found["setting"]
    machine = s["cpu"] if s["device"] == "CPU" else s["device"]
    load = "" if s["load_before"] is None else f"; load {s['load_before']:.1f} before it began"
    layers = "all layers" if len(s["layers"]) == s["depth"] else f"layers {', '.join(map(str, s['layers']))}"
    return (
        f"{s['architecture']} ({s['source']}), {s['depth']} layers, {s['heads']} heads, width {s['width']}; "
        f"{s['image_size']} px ({s['patches']} patches), batch {s['batch_size']}, "
        f"{'float32' if s['precision'] == '32' else 'bf16 autocast'}, {layers} guided; {machine}, {s['threads']} CPU "
        f"threads, {s['versions']}; {s['rounds']} rounds{load}."
    )


def tables(found: Mapping[str, Any]) -> list[Table]:
    """The tables of a bench.json."""
    there = {part: title for part, title in PARTS.items() if part in found}
    parts = [Table(title, list(_lines(found[part]["rows"])), found[part]["notes"]) for part, title in there.items()]
    return [*parts, Table("Bounds", list(bounds(found)), [])]


def bounds(found: Mapping[str, Any]) -> Iterator[dict[str, str | None]]:
    """What is wanted of every machine, what it is on this one, and whether that is met: docs/cost.md#bounds."""
    steps, maps = found["steps"]["rows"], found["whole_maps"]

    def ratio(one: str, *others: str) -> float | None:
        """Median of the rounds' ratios, to the quickest of the others that fitted into memory."""
        there = [name for name in others if name in steps]
        if not there:
            return None
        best = min(there, key=lambda name: float(steps[name]["median_seconds"]))
        return median(a / b for a, b in zip(steps[one]["seconds"], steps[best]["seconds"], strict=True))

    measured: list[tuple[str, float | None, float]] = [
        (
            "plain to the quickest by hand, fused or multiplied out",
            ratio("plain", "plain as it comes", "unfused plain"),
            1.02,
        ),
        ("gta to plain", ratio("gta", "plain"), 1.22),
        ("gta to hooks on multiplied-out attention", ratio("gta", "unfused hooks"), 1.0),
        ("gta reuse to plain", ratio("gta reuse", "plain"), 1.02),
        ("penalty off, share", max(steps["gta"]["penalty_off"].values()), 0.01),
        ("waiting for images, share", found["loop"]["rows"]["gta train"]["waiting"], 0.03),
        ("whole maps, time to naive", 1 / maps["rows"]["naive"]["ratio"], 0.1),
        ("whole maps, memory to naive", 1 / maps["less_memory"], 0.05),
    ]
    for what, value, most in measured:
        if value is not None:
            yield {"": what, "here": f"{value:.3f}", "at most": f"{most:g}", "met": "yes" if value <= most else "NO"}


def _lines(rows: Mapping[str, Any]) -> Iterator[dict[str, str | None]]:
    there = {name: column for name, column in COLUMNS.items() if any(column[0] in r for r in rows.values())}
    for name, r in rows.items():
        cells = {column: show(r[field]) for column, (field, show) in there.items()}
        ratio = "1" if r["against"] == name else f"{r['ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
        yield {"": name, "ms": cells.pop("ms"), "ratio": ratio, "to": None if ratio == "1" else r["against"], **cells}


# --- the picture ------------------------------------------------------------------------------------------


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Steps as ratios to the plain one, their memory, the growth lines and whole maps, as one PNG."""
    from matplotlib.figure import Figure

    steps, floor = found["steps"]["rows"], found["steps"]["floor"]["ratio"]
    figure = Figure(figsize=(11, 4.4 + 0.42 * len(steps)), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.05)
    halves: Any = figure.subfigures(2, 1, height_ratios=[0.42 * len(steps) + 1.2, 3.2])
    above, below = halves
    time, memory = above.subplots(1, 2, sharey=True, width_ratios=[1.7, 1])
    layers, tokens, maps = below.subplots(1, 3, width_ratios=[1, 1, 0.9])
    _ratios(time, steps, "Time of a training step, × plain (black: lowest to highest)")
    time.axvline(floor, color=GREEN, linewidth=1.2, linestyle=(0, (4, 3)))
    note = f"{floor:.2f}: FLOPs of plain and a source's rows"
    time.text(floor + 0.02, -0.5, note, color=GREEN, fontsize=8.5, va="center")
    _memory(memory, steps)
    for axis, part, label in ((layers, "layers", "guided layers"), (tokens, "tokens", "patches of an image")):
        if part in found:
            _growth(axis, found[part], label)
        else:  # of gta bench --quick
            axis.remove()
    _ratios(maps, found["whole_maps"]["rows"], "Time of whole maps, × gta")
    whole = found["whole_maps"]
    maps.set_xlabel(f"{whole['tokens']} patches; naive takes {whole['less_memory']:.1f} times the memory", fontsize=8.5)
    for axis in (time, memory, layers, tokens, maps):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8.5)
    figure.supxlabel(where(found).partition("; load")[0].rpartition(", python")[0], fontsize=8, color=GREY)
    with atomic_write(path) as new:
        figure.savefig(new, format="png")


def _title(axis: Any, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=10, fontweight="bold")


def _colour(name: str) -> str:
    return GREEN if name.startswith("gta") else GREY if "plain" in name else RED


def _ratios(axis: Any, rows: Mapping[str, Any], title: str) -> None:
    first = next(iter(rows))
    for y, (name, r) in enumerate(rows.items()):
        axis.barh(y, r["ratio"], color=_colour(name), height=0.62, alpha=0.85)
        axis.plot([r["low"], r["high"]], [y, y], color="black", linewidth=1.4, solid_capstyle="butt")
        text = f"{r['ratio']:.2f}" + ("" if r["against"] == first else f" × {r['against']}")
        axis.text(r["high"] * 1.01 + 0.02, y, text, va="center", fontsize=8.5, bbox=WHITE)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.5, -0.85)
    axis.set_xlim(0, 1.35 * max(r["high"] for r in rows.values()) + 0.2)
    _title(axis, title)


def _memory(axis: Any, rows: Mapping[str, Any]) -> None:
    most = max(r["peak_bytes"] + r["source_bytes"] for r in rows.values()) / MEGA
    for y, (name, r) in enumerate(rows.items()):
        peak, source, colour = r["peak_bytes"] / MEGA, r["source_bytes"] / MEGA, _colour(name)
        axis.barh(y, peak, color=colour, height=0.62, alpha=0.85)
        axis.barh(y, source, left=peak, color="white", edgecolor=colour, hatch="////", height=0.62, linewidth=0.8)
        text = f"{peak:,.0f}" + (f" + {source:,.0f}" if source else "")
        axis.text(peak + source + 0.015 * most, y, text, va="center", fontsize=8.5)
    axis.set_xlim(0, 1.4 * most)
    axis.tick_params(left=False, labelleft=False)
    _title(axis, "Peak memory + source's weights, MB")


def _growth(axis: Any, grown: Mapping[str, Any], label: str) -> None:
    x: Sequence[int] = grown["x"]
    for part, colour, word in (("whole", GREEN, "whole guide"), ("rows", BLUE, "rows alone")):
        rows, line = [grown["rows"][f"{part} {v}"] for v in x], grown["lines"][part]
        axis.plot(x, [1e3 * (line["intercept"] + line["slope"] * v) for v in x], color=colour, linewidth=1.2)
        low, high = ([1e3 * most(r["seconds"]) for r in rows] for most in (min, max))
        axis.vlines(x, low, high, color=colour, alpha=0.35, linewidth=3)
        middle = [1e3 * r["median_seconds"] for r in rows]
        axis.plot(x, middle, "o", color=colour, markersize=4, label=f"{word}, R² {line['r2']:.4f}")
    axis.set_xlim(0, 1.05 * x[-1])
    axis.set_ylim(0)
    axis.set_xlabel(label, fontsize=8.5)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    _title(axis, f"Guide, ms a step, by {label}")
