"""The page of a study, from the tables in its folder."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import yaml

from gta.report import page
from gta.report.charts import Chart, chart
from gta.tables import read_csv

PLACE = ("data", "fraction")
PERCENT = ("top1", "accuracy", "f1")

Row = Mapping[str, str]


class Bar(NamedTuple):
    """A method on a scale: lefts in percent of its width; low and high None for none."""

    name: str
    settings: str
    value: float
    point: float
    low: float | None
    high: float | None
    seeds: list[float]


class Group(NamedTuple):
    """A data set and share: its lines of the table, its bars and the ends of their scale."""

    title: str
    rows: list[dict[str, Any]]
    bars: list[Bar]
    scale: tuple[float, float]


def is_study(folder: Path) -> bool:
    return (folder / "plan.yaml").is_file() and (folder / "table.csv").is_file()


def write_report(folder: Path, out: Path) -> Path:
    """Write the page of a study that has its tables; returns `out`."""
    plan = yaml.safe_load((folder / "plan.yaml").read_text(encoding="utf-8"))
    page.write(out, page.render("study.html.jinja", **content(folder, plan)))
    return out


def content(folder: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What the template is filled with."""
    rows, runs = read_csv(folder / "table.csv"), read_csv(folder / "runs.csv")
    compare = plan.get("compare") or {}
    measure = compare.get("measure", "test_top1")
    done = [run for run in runs if run["state"] == "complete" and _number(run, measure) is not None]
    places = list(dict.fromkeys(tuple(row[key] for key in PLACE) for row in rows))
    groups = [
        _group([row for row in rows if _place(row) == place], [r for r in done if _place(r) == place], measure, folder)
        for place in places
    ]
    many_sets, many_shares = (len({place[i] for place in places}) > 1 for i in (0, 1))
    titles = [_title(place, many_sets, many_shares) for place in places]
    return {
        "title": folder.resolve().name,
        "plan": plan,
        "measure": measure,
        "baseline": next((row["baseline"] for row in rows if row.get("baseline")), None),
        "reported": [name for name in plan.get("report", ()) if any(row.get(name) for row in rows)],
        "groups": [group._replace(title=title) for group, title in zip(groups, titles, strict=True)],
        "charts": list(_charts(rows, done, measure)),
        "counts": Counter(run["state"] for run in runs),
        "text": yaml.safe_dump(dict(plan), sort_keys=False, allow_unicode=True),
        "folder": folder,
    }


def _place(row: Row) -> tuple[str, ...]:
    return tuple(row[key] for key in PLACE)


def _title(place: tuple[str, ...], many_sets: bool, many_shares: bool) -> str:
    share = f"{100 * float(place[1]):g} % of the training images" if many_shares else ""
    return ", ".join(filter(None, (place[0] if many_sets else "", share)))


def _number(row: Row, key: str) -> float | None:
    try:
        return float(row.get(key) or "")
    except ValueError:
        return None


def _group(rows: Sequence[Row], runs: Sequence[Row], measure: str, folder: Path) -> Group:
    lines: list[dict[str, Any]] = []
    for row in rows:
        own = [run for run in runs if (run["name"], run["settings"]) == (row["method"], row["settings"])]
        numbers = {key: _number(row, key) for key in row}
        seeds = [
            {"seed": run["seed"], "value": _number(run, measure), "folder": run["folder"],
             "page": f"runs/{run['folder']}/report.html"
             if (folder / "runs" / run["folder"] / "report.html").is_file() else None}
            for run in own
        ]  # fmt: skip
        lines.append({"text": dict(row), "numbers": numbers, "runs": seeds})
    known = [line for line in lines if line["numbers"].get(measure) is not None]
    every = [v for line in known for v in (*(line["numbers"].get(f"{measure}{e}") for e in ("", "_low", "_high")),
                                           *(run["value"] for run in line["runs"])) if v is not None]  # fmt: skip
    if not every:
        return Group("", lines, [], (0, 1))
    low, high = min(every), max(every)
    if any(word in measure for word in PERCENT):
        low, high = min(low, max(0, 10 * (low // 10))), max(high, min(100, 10 * (high // 10 + 1)))
    width = (high - low) or 1

    def at(value: float | None) -> Any:
        return None if value is None else 100 * (value - low) / width

    bars = []
    for line in known:
        text, n = line["text"], line["numbers"]
        low_end, high_end = (at(n.get(f"{measure}_{end}")) for end in ("low", "high"))
        ticks = [at(run["value"]) for run in line["runs"]]
        bars.append(Bar(text["method"], text["settings"], n[measure], at(n[measure]), low_end, high_end, ticks))
    return Group("", lines, sorted(bars, key=lambda bar: -bar.value), (low, high))


def _charts(rows: Sequence[Row], runs: Sequence[Row], measure: str) -> Iterator[Chart]:
    """Against share, λ and drift, and the cost, as far as the study says something of them."""
    sets = list(dict.fromkeys(row["data"] for row in rows))
    for data in sets:
        suffix = f", {data}" if len(sets) > 1 else ""
        here = [row for row in rows if row["data"] == data and _number(row, measure) is not None]
        own = [run for run in runs if run["data"] == data]
        shares = {row["fraction"] for row in here}
        if len(shares) > 1:
            yield _against_share(here, measure, measure + suffix)
        curves: dict[str, list[Row]] = {}  # of λ, by what else is the same
        for run in own:
            if (_number(run, "weight") or 0) > 0:
                share = f", share {run['fraction']}" if len(shares) > 1 else ""
                curves.setdefault((run.get("method") or run["name"]) + share, []).append(run)
        curves = {name: of for name, of in curves.items() if len({run["weight"] for run in of}) > 2}
        if curves:
            found = {name: _by_x(of, "weight", measure) for name, of in curves.items()}
            means = {name: [(x, fmean(y)) for x, y in points] for name, points in found.items()}
            bands = {name: [(x, min(y), max(y)) for x, y in points] for name, points in found.items()}
            yield chart(f"{measure} by λ{suffix}", "λ", means, bands=bands, dots=True, log=True)
        for key, title, log in (("drift", "drift", True), ("train_seconds", "seconds of training", False)):
            points = {}
            for name in dict.fromkeys(run["name"] for run in own):
                numbers = ((_number(run, key), _number(run, measure)) for run in own if run["name"] == name)
                pairs = [(x, y) for x, y in numbers if x and y is not None]
                if pairs:
                    points[name] = [(fmean(x for x, _ in pairs), fmean(y for _, y in pairs))]
            if len(points) > 1:
                yield chart(f"{measure} against {title}{suffix}", title, points, dots=True, log=log, joined=False)


def _against_share(rows: Sequence[Row], measure: str, title: str) -> Chart:
    """A line for every method; for every setting of one where several are reported of a share."""
    several = len({(row["method"], row["fraction"]) for row in rows}) < len(rows)
    lines: dict[str, list[tuple[float, float]]] = {}
    bands: dict[str, list[tuple[float, float, float]]] = {}
    for row in sorted(rows, key=lambda row: float(row["fraction"])):
        name, x = f"{row['method']} {row['settings']}" if several else row["method"], float(row["fraction"])
        value, low, high = (_number(row, f"{measure}{end}") for end in ("", "_low", "_high"))
        assert value is not None
        lines.setdefault(name, []).append((x, value))
        if low is not None and high is not None:
            bands.setdefault(name, []).append((x, low, high))
    return chart(title, "share of the training images", lines, bands=bands, dots=True)


def _by_x(runs: Sequence[Row], x: str, measure: str) -> list[tuple[float, list[float]]]:
    """The runs' values by their x, ascending."""
    found: dict[float, list[float]] = {}
    for run in runs:
        found.setdefault(float(run[x]), []).append(float(run[measure]))
    return sorted(found.items())
