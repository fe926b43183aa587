"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gta.errors import GtaError


@contextmanager
def written(path: Path, option: str) -> Iterator[Path]:
    """A path to write to, which becomes `path` when that is done; its folder is made.

    Args:
        path: the file.
        option: what names it on the command line, for the message.

    Raises:
        GtaError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield new
        new.replace(path)
    except OSError as error:
        raise GtaError(f"{option} {path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
