"""Charts as numbers: scales, ticks and SVG paths, which charts.html.jinja draws."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 200, 46, 12, 10, 34

Points = Sequence[tuple[float, float]]


class Tick(NamedTuple):
    at: float
    text: str


class Line(NamedTuple):
    name: str
    path: str
    band: str  # a closed path; "" for none
    dots: list[tuple[float, float, str]]  # with what they say


class Chart(NamedTuple):
    """Lines over a common x.

    Attributes:
        title, x_title: what is drawn, over what.
        alt: the same in words.
        diagonal: SVG path of y = x; "" for none.
    """

    title: str
    x_title: str
    alt: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    diagonal: str = ""
    words: Sequence[tuple[float, float, str]] = ()  # names beside points


def chart(
    title: str,
    x_title: str,
    lines: Mapping[str, Points],
    *,
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    dots: bool = False,
    diagonal: bool = False,
    log: bool = False,
    joined: bool = True,
    from_zero: bool = False,
) -> Chart:
    """Scale lines to a chart.

    Args:
        title, x_title: what is drawn, over what.
        lines: by name, (x, y) in order; not finite ones are left out.
        bands: by name, (x, low, high).
        y_range, x_range: of the axes, where not as wide as the values.
        dots: mark every value.
        diagonal: draw y = x.
        log: a logarithmic x axis; every x above 0.
        joined: False draws points with their names instead of lines.
        from_zero: let the y axis begin at 0.
    """
    finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in lines.items()}
    finite = {name: points for name, points in finite.items() if points}
    bands = bands or {}
    xs = [x for points in finite.values() for x, _ in points] or [0.0]
    ys = [y for points in finite.values() for _, y in points] or [0.0]
    ys += [y for band in bands.values() for _, low, high in band for y in (low, high)]
    x_low, x_high = x_range or (min(xs), max(xs))
    least = min(0.0, min(ys)) if from_zero else min(ys)
    if not joined:  # room for the points at the edges, and for their names
        margin = 0.06 * ((max(ys) - least) or 1)
        least, ys = least - margin, [*ys, max(ys) + margin]
        stretch = (x_high / x_low) ** 0.06 if log else 0.06 * (x_high - x_low)
        x_low, x_high = (x_low / stretch, x_high * stretch) if log else (x_low - stretch, x_high + stretch)
    y_ticks = ticks(*(y_range or (least, max(ys))))
    y_low, y_high = (y_range[0], y_range[1]) if y_range else (min(y_ticks[0], least), max(y_ticks[-1], max(ys)))
    along = math.log10 if log else float

    def px(x: float) -> float:
        start, end = along(x_low), along(x_high)
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (along(x) - start) / ((end - start) or 1), 1)

    def py(y: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / ((y_high - y_low) or 1), 1)

    def path(points: Points) -> str:
        return "M" + "L".join(f"{px(x)} {py(y)}" for x, y in points)

    drawn = []
    for name, points in finite.items():
        band = bands.get(name, ())
        closed = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
        says = [(px(x), py(y), f"{name}: {y:.3g} at {x:.3g}") for x, y in points] if dots else []
        drawn.append(Line(name, path(points) if joined else "", path(closed) + "Z" if closed else "", says))
    x_ticks = _powers(x_low, x_high) if log else ticks(x_low, x_high)
    last = "; ".join(f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in finite.items())
    return Chart(
        title,
        x_title,
        f"{title} over {x_title}: {last}.",
        drawn,
        [Tick(px(x), _number(x)) for x in x_ticks],
        [Tick(py(y), _number(y)) for y in y_ticks if y_low <= y <= y_high],
        path([(y_low, y_low), (y_high, y_high)]) if diagonal else "",
        [] if joined else _apart([(px(x), py(y), name) for name, points in finite.items() for x, y in points[:1]]),
    )


def _apart(words: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Names moved down until none lies over another."""
    placed: list[tuple[float, float, str]] = []
    for x, y, name in sorted(words, key=lambda word: word[1]):
        while any(abs(y - other) < 11 and abs(x - there) < 6.5 * max(len(name), len(n)) for there, other, n in placed):
            y += 2
        placed.append((x, y, name))
    return placed


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten within; the ends, where there are fewer than two."""
    found = [10.0**k for k in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)]
    return found if len(found) > 1 else [low, high]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at or above `low` to at or below `high`; at least two where these differ."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / about))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= about)
    found = [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return found if len(found) > 1 else [low, high]


def _number(value: float) -> str:
    return f"{value:.4g}"


def smoothed(points: Points, most: int = 150) -> Points:
    """At most so many points: means of neighbouring ones."""
    size = -(-len(points) // most) if points else 1
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
