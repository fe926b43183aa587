"""How commands print: tables on the terminal, or JSON."""

from __future__ import annotations

import json
import sys
from typing import Any


def console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)  # a file or a pipe has no width: tables stay whole


def new_table(*columns: str, title: str | None = None) -> Any:
    from rich.table import Table

    table = Table(title=None if title is None else cells(title)[0], show_header=bool(columns), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def cells(*texts: str) -> list[Any]:
    """Texts as they are: a path such as [red]/0.png is no markup."""
    from rich.text import Text

    return [Text(text) for text in texts]


def show(values: dict[str, Any], as_json: bool, title: str) -> None:
    if as_json:
        print(json.dumps(values, ensure_ascii=False, indent=2))
        return
    table = new_table(title=title)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in values.items():
        table.add_row(*cells(key, _readable(value)))
    console().print(table)


def _readable(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def first_line(what: Any) -> str:
    """Of a docstring."""
    return str(what.__doc__).strip().splitlines()[0]
