"""How commands print: tables on the terminal, or JSON."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

MANY = 500  # rows, of which each frame takes a millisecond and more


def print_table(rows: Sequence[Mapping[str, Any]], title: str | None = None, header: bool = True) -> None:
    """Rows with the same keys, which head the columns. Text is no markup: a path may be [red]/0.png."""
    if len(rows) > MANY:
        print_lines(rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None if title is None else Text(title), show_header=header, title_justify="left")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # a file or a pipe has no width: nothing is cut


def print_lines(rows: Sequence[Mapping[str, Any]]) -> None:
    """The same in plain columns, without waiting for a frame."""
    lines = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_values(values: Mapping[str, Any], title: str, as_json: bool = False) -> None:
    """A name and a value in each line."""
    if as_json:
        print_json(values)
    else:
        print_table([{"name": name, "value": value} for name, value in values.items()], title, header=False)


@contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Tells on the terminal's error output how many of `total` are done; call it with their number."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def print_json(content: Any) -> None:
    """Indented, its letters as they are."""
    print(json.dumps(content, ensure_ascii=False, indent=2))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "\n".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
