"""The tables and the picture of `gta bench`, made from its bench.json alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from gta.files import atomic_write, write_text
from gta.tables import markdown

GREY, GREEN, RED, BLUE = "#6b7280", "#1a7f37", "#b42318", "#1d4ed8"
MEGA, GIGA = 1e6, 1e9
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # so that no line runs through a number


class Table(NamedTuple):
    """One of the tables, as it is read: values are text, or None for none."""

    title: str
    rows: list[dict[str, str | None]]
    notes: list[str]


def write_report(folder: Path) -> None:
    """Write `bench.md` and `bench.png` from `bench.json`."""
    found = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    parts = [f"# What guidance costs here\n\n{where(found)}\n"]
    for title, rows, notes in tables(found):
        parts.append(f"## {title}\n\n{markdown(rows)}\n" + "".join(f"- {note}\n" for note in notes))
    write_text(folder / "bench.md", "\n".join(parts))
    draw(found, folder / "bench.png")


def where(found: Mapping[str, Any]) -> str:
    """One sentence: model, images, machine."""
    s = found["setting"]
    machine = s["cpu"] if s["device"] == "CPU" else s["device"]
    load = "" if s["load_before"] is None else f"; load {s['load_before']:.1f} before it began"
    layers = "all layers" if len(s["layers"]) == s["depth"] else f"layers {', '.join(map(str, s['layers']))}"
    return (
        f"{s['architecture']} ({s['source']}), {s['depth']} layers, {s['heads']} heads, width {s['width']}; "
        f"{s['image_size']} px ({s['patches']} patches), batch {s['batch_size']}, "
        f"{'float32' if s['precision'] == '32' else 'bf16 autocast'}, "
        f"{layers} guided; {machine}, {s['threads']} CPU threads, "
        f"{', '.join(f'{k} {v}' for k, v in s['versions'].items())}; {s['rounds']} rounds{load}."
    )


def tables(found: Mapping[str, Any]) -> list[Table]:
    """The tables of a bench.json."""
    return [
        _steps(found["steps"]),
        _pipeline(found["pipeline"]),
        _maps(found["whole_maps"]),
        _growth(found["growth"]),
    ]


def _steps(steps: Mapping[str, Any]) -> Table:
    rows = [
        {
            "step": name,
            "ms": f"{1e3 * r['median_seconds']:.1f}",
            "ratio": "1" if name == "plain" else f"{r['ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]",
            "to": None if name == "plain" else r["against"],
            "images/s": f"{r['images_per_second']:.1f}",
            "saved MB": f"{r['saved_bytes'] / MEGA:.1f}",
            "peak + source MB": f"{r['peak_bytes'] / MEGA:.1f} + {r['source_bytes'] / MEGA:.1f}",
            "FLOPs ratio": f"{r['flops_ratio']:.3f}",
            "ratio / FLOPs": f"{r['over_flops']:.3f}",
            "penalty off by": ", ".join(f"{off:.0e} ({how})" for how, off in r["penalty_off"].items()) or None,
        }
        for name, r in steps["rows"].items()
    ]
    f = steps["floor"]
    floor = (
        f"Floor of a step in which a source sees the images: {f['ratio']:.3f} of the plain step's FLOPs "
        f"({f['plain_flops'] / GIGA:.3g} G per image, of the source {f['source_flops'] / GIGA:.3g} G, of the rows "
        f"{f['rows_flops'] / GIGA:.2g} G). gta took {f['over_floor']:.3f} times that."
    )
    return Table("Training step", rows, [floor, *(f"{name}: {r['says']}" for name, r in steps["rows"].items())])


def _pipeline(around: Mapping[str, Any]) -> Table:
    rows: list[dict[str, str | None]] = [
        {
            "plain step": name,
            "ms": f"{1e3 * median(seconds):.1f}",
            "ratio": f"{around['ratio']:.3f} [{around['low']:.3f}, {around['high']:.3f}]" if name != "by hand" else "1",
            "of it waiting for images": f"{around['waiting'][name]:.1%}",
        }
        for name, seconds in around["seconds"].items()
    ]
    width, height = around["photo"]
    photos = (
        f"Epochs of {around['steps']} steps on JPEG files of {width}×{height} px, augmented by "
        f"{around['workers'] or 'no'} processes beside the training's."
    )
    return Table("The loop around the step", rows, [photos])


def _maps(maps: Mapping[str, Any]) -> Table:
    peaks, off, faster = maps["peak_bytes"], maps["off"], maps["faster"]

    def line(what: str, digits: str, of: Mapping[str, float], ratio: str | None = None) -> dict[str, str | None]:
        return {"": what, "naive": format(of["naive"], digits), "gta": format(of["gta"], digits), "naive / gta": ratio}

    rows = [
        line(
            "ms, forward and backward",
            ".1f",
            {name: 1e3 * median(s) for name, s in maps["seconds"].items()},
            f"{faster['ratio']:.2f} [{faster['low']:.2f}, {faster['high']:.2f}]",
        ),
        line("extra memory, MB", ".1f", {k: v / MEGA for k, v in peaks.items()}, f"{maps['less_memory']:.1f}"),
    ]
    for how in off:
        for part in ("value", "gradient"):
            rows.append(line(f"{part} off by, maps {how}", ".0e", {k: v[part] for k, v in off[how].items()}))
    shape = (
        f"{maps['size']} px ({maps['tokens']} patches), {maps['batch']} images, {maps['heads']} heads of width "
        f"{maps['head_width']}, float32, one layer; errors are relative, against float64."
    )
    return Table("Whole maps", rows, [shape])


def _growth(growth: Mapping[str, Any]) -> Table:
    rows: list[dict[str, str | None]] = []
    for by, g in growth.items():
        for part in ("guide", "rows"):
            line = g[part]["line"]
            each = [f / x for f, x in zip(g[part]["flops"], g["x"], strict=True)]
            rows.append(
                {
                    "": f"{'whole guide' if part == 'guide' else 'rows alone'} by {by}",
                    "at": ", ".join(map(str, g["x"])),
                    "ms": ", ".join(f"{1e3 * median(s):.3g}" for s in g[part]["seconds"]),
                    "R²": f"{line['r2']:.4f}",
                    "off the line": f"{line['residual']:.1%}",
                    "MFLOPs each": f"{each[0] / MEGA:.4g}" + ("" if part == "rows" else f" to {each[-1] / MEGA:.4g}"),
                }
            )
    tokens = growth["tokens"]
    shares = [g / p for g, p in zip(tokens["guide"]["flops"], tokens["plain_flops"], strict=True)]
    share = (
        f"Of the plain step's FLOPs the whole guide makes {min(shares):.1%} to {max(shares):.1%}, over all "
        "these numbers of tokens: the source's pass grows as the model's own does, attention's N² included."
    )
    return Table("Growth", rows, [share])


# --- the picture ------------------------------------------------------------------------------------------


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Steps as ratios to the plain one, their memory, the growth lines and whole maps, as one PNG."""
    from matplotlib.figure import Figure

    steps = found["steps"]["rows"]
    figure = Figure(figsize=(11, 4.4 + 0.42 * len(steps)), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.05)
    halves: Any = figure.subfigures(2, 1, height_ratios=[0.42 * len(steps) + 1.2, 3.2])
    above, below = halves
    time, memory = above.subplots(1, 2, sharey=True, width_ratios=[1.7, 1])
    _draw_time(time, steps, found["steps"]["floor"])
    _draw_memory(memory, steps)
    layers, tokens, maps = below.subplots(1, 3, width_ratios=[1, 1, 0.7])
    _draw_line(layers, found["growth"]["layers"], "guided layers")
    _draw_line(tokens, found["growth"]["tokens"], "patches of an image")
    _draw_maps(maps, found["whole_maps"])
    for axis in (time, memory, layers, tokens, maps):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8.5)
    figure.supxlabel(_short(found["setting"]), fontsize=8, color=GREY)
    with atomic_write(path) as new:
        figure.savefig(new, format="png")


def _title(axis: Any, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=10, fontweight="bold")


def _colour(name: str) -> str:
    return GREEN if name.startswith("gta") else GREY if "plain" in name else RED


def _draw_time(axis: Any, steps: Mapping[str, Any], floor: Mapping[str, float]) -> None:
    names = list(steps)
    for y, (name, r) in enumerate(steps.items()):
        axis.barh(y, r["ratio"], color=_colour(name), height=0.62, alpha=0.85)
        axis.plot([r["low"], r["high"]], [y, y], color="black", linewidth=1.4, solid_capstyle="butt")
        other = "" if r["against"] == "plain" else f" × {r['against']}"
        axis.text(
            max(r["high"], r["ratio"]) + 0.02, y, f"{r['ratio']:.2f}{other}", va="center", fontsize=8.5, bbox=PLAIN
        )
    axis.axvline(1, color="black", linewidth=0.8)
    axis.axvline(floor["ratio"], color=GREEN, linewidth=1.2, linestyle=(0, (4, 3)))
    axis.text(floor["ratio"] + 0.02, -0.5, f"{floor['ratio']:.2f}: FLOPs of plain and a source's rows", color=GREEN,
              fontsize=8.5, va="center")  # fmt: skip
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.85)
    axis.set_xlim(0, max(1.35 * max(r["high"] for r in steps.values()), floor["ratio"] + 0.8))
    _title(axis, "Time of a training step, × plain (black: lowest to highest)")


def _draw_memory(axis: Any, steps: Mapping[str, Any]) -> None:
    most = max(r["peak_bytes"] + r["source_bytes"] for r in steps.values())
    unit, word = (GIGA, "GB") if most >= GIGA else (MEGA, "MB")
    for y, (name, r) in enumerate(steps.items()):
        peak, beside = r["peak_bytes"] / unit, r["source_bytes"] / unit
        axis.barh(y, peak, color=_colour(name), height=0.62, alpha=0.85)
        axis.barh(
            y, beside, left=peak, color="white", edgecolor=_colour(name), hatch="////", height=0.62, linewidth=0.8
        )
        axis.text(peak + beside + 0.015 * most / unit, y, f"{peak:.3g}" + (f" + {beside:.3g}" if beside else ""),
                  va="center", fontsize=8.5)  # fmt: skip
    axis.set_xlim(0, 1.3 * most / unit)
    axis.tick_params(left=False, labelleft=False)
    _title(axis, f"Peak memory + source's weights, {word}")


def _draw_line(axis: Any, grown: Mapping[str, Any], label: str) -> None:
    x = grown["x"]
    for part, colour, word in (("guide", GREEN, "whole guide"), ("rows", BLUE, "rows alone")):
        times = [[1e3 * s for s in seconds] for seconds in grown[part]["seconds"]]
        middle, line = [median(t) for t in times], grown[part]["line"]
        axis.plot(x, [1e3 * (line["intercept"] + line["slope"] * v) for v in x], color=colour, linewidth=1.2)
        axis.vlines(x, [min(t) for t in times], [max(t) for t in times], color=colour, alpha=0.35, linewidth=3)
        axis.plot(x, middle, "o", color=colour, markersize=4, label=f"{word}, R² {line['r2']:.4f}")
    axis.set_xlim(0, 1.05 * x[-1])
    axis.set_ylim(0)
    axis.set_xlabel(label, fontsize=8.5)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    _title(axis, f"Guide, ms a step, by {label}")


def _draw_maps(axis: Any, maps: Mapping[str, Any]) -> None:
    f = maps["faster"]
    for x, value, top, text in (
        (0, f["ratio"], f["high"], f"{f['ratio']:.1f} times\nfaster"),
        (1, maps["less_memory"], maps["less_memory"], f"{maps['less_memory']:.1f} times\nless memory"),
    ):
        axis.bar(x, value, color=GREEN, width=0.6, alpha=0.85)
        axis.text(x, top, text, ha="center", va="bottom", fontsize=8.5)
    axis.plot([0, 0], [f["low"], f["high"]], color="black", linewidth=1.4)
    axis.axhline(1, color=GREY, linewidth=0.8)
    axis.set_xticks([])
    axis.set_xlim(-0.6, 1.6)
    axis.set_ylim(0, 1.25 * max(f["high"], maps["less_memory"]))
    axis.set_xlabel(f"{maps['tokens']} patches, batch {maps['batch']}", fontsize=8.5)
    _title(axis, "Whole maps, naive / gta")


def _short(s: Mapping[str, Any]) -> str:
    precision = "float32" if s["precision"] == "32" else "bf16"
    machine = f"{s['cpu']}, {s['threads']} threads" if s["device"] == "CPU" else s["device"]
    return f"{s['architecture']}, {s['image_size']} px, batch {s['batch_size']}, {precision}; {machine}"
