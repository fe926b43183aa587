"""Files that are written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gta.errors import GtaError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when that is done."""
    new = path.with_name(path.name + ".new")
    try:
        yield new
        new.replace(path)
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


@contextmanager
def written(path: Path, option: str) -> Iterator[Path]:
    """The same for a file that the user named; its folder is made.

    Args:
        path: the file.
        option: what names it on the command line, for the message.

    Raises:
        GtaError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            yield new
    except OSError as error:
        raise GtaError(f"{option} {path} cannot be written: {error.strerror or error}.") from error


def write_text(path: Path, text: str) -> None:
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8", errors="surrogateescape")  # file names may be any bytes


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
