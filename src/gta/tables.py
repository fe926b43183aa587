"""Tables as CSV, Markdown and LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gta.files import write_text

Rows = Sequence[Mapping[str, Any]]


def csv_text(rows: Rows) -> str:
    """All columns of all rows, in order of appearance; None is left empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(path: Path, rows: Rows) -> None:
    """`csv_text` in a file."""
    write_text(path, csv_text(rows))


def append_csv(path: Path, columns: Sequence[str], row: Mapping[str, Any]) -> None:
    """One line more, under a header if it is the first; values of other columns are left out."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The lines of a file, as text; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:  # file names may be any bytes
        return list(csv.DictReader(file))


def markdown(rows: Rows) -> str:
    """A Markdown table of rows that share their columns; values as text, – for None."""
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[c]) for c in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    return "–" if value is None else str(value).replace("|", "\\|")


_TEX = {sign: rf"\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$",
    "–": "--", "λ": r"$\lambda$",
}  # fmt: skip


def latex(rows: Rows) -> str:
    """A tabular of rows that share their columns, for the package booktabs; values as text, -- for None."""
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [" & ".join(map(_tex, cells)) + r" \\" for cells in (columns, *([row[c] for c in columns] for row in rows))]
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{'l' * len(columns)}}}", *body, r"\end{tabular}", ""])


def _tex(value: Any) -> str:
    return "--" if value is None else "".join(_TEX.get(sign, sign) for sign in str(value))


def plus_minus(mean: float | None, spread: float | None) -> str | None:
    """`63.3 ± 2.1`, with digits for the size of the mean; without a spread the mean alone."""
    if mean is None:
        return None
    digits = 1 if abs(mean) >= 10 else 2 if abs(mean) >= 0.1 else 4
    return f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")
