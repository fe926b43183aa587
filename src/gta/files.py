"""Files and folders that are written completely or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gta.errors import GtaError


@contextmanager
def atomic_write(path: Path, option: str | None = None) -> Iterator[Path]:
    """A path beside `path` to write to; the file written there is renamed to `path` at the end.

    Args:
        path: the file.
        option: the flag by which the user named it; its folder is then made, and a failure is told as that flag's.

    Raises:
        GtaError: with `option`: it cannot be written.
    """
    new = path.with_name(path.name + ".new")
    try:
        if option is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield new
        _sync(new)
        new.replace(path)
        _sync(path.parent)
    except OSError as error:
        if option is None:
            raise
        raise GtaError(f"{option} {path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder beside `path` to fill; it is renamed to `path` at the end.

    Args:
        path: the folder; absent or empty, unless it is to be replaced.
        replace: put what is there aside, and remove it once the new folder is in its place.

    Raises:
        OSError: it cannot be written, or `path` holds something and is not to be replaced.
    """
    path = path.resolve()
    new, old = (path.with_name(f".{path.name}.{word}-{os.getpid()}") for word in ("new", "old"))
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        for written in (*new.iterdir(), new):
            _sync(written)
        if path.exists():
            if replace:
                path.rename(old)
            else:
                path.rmdir()  # empty, or it fails
        new.rename(path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file or folder, so that a power cut leaves no empty one."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as new:
        new.write_text(text, encoding="utf-8", errors="surrogateescape")  # file names may be any bytes


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def cache_folder(*parts: str) -> Path:
    """Where this package keeps what can be made again: $XDG_CACHE_HOME or ~/.cache, then gta/…"""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").joinpath("gta", *parts)
