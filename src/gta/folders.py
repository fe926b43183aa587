"""Whose a folder is: only what we marked as ours, and in it only what we write, is ever replaced or deleted."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gta.errors import GtaError
from gta.files import file_digest, locked, read_json, reading, write_json

MARKER = "gta.json"
_VERSION = 1


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Attributes:
        name: in the marker and in messages: "run".
        files: what we write into it, as patterns of paths; a pattern for a folder of ours that may be empty as well.
    """

    name: str
    files: tuple[str, ...]


def mark(folder: Path, kind: Kind, **more: Any) -> None:
    """Say in the folder that it is ours; to be done before anything else is written into it."""
    write_json(folder / MARKER, {"kind": kind.name, "version": _VERSION, **more})


def read_marker(folder: Path, kind: Kind) -> dict[str, Any] | None:
    """What its marker says; None where the folder is not one of this kind.

    Raises:
        GtaError: the marker cannot be read, or is of a later version.
    """
    if not (folder / MARKER).exists():
        return None
    found = read_json(folder / MARKER)
    if found.get("kind") != kind.name:
        return None
    if found.get("version") != _VERSION:
        raise GtaError(f"{folder} was written by another version of gta: its {MARKER} says {found.get('version')!r}.")
    return found


def check_sealed(folder: Path, way_out: str = "") -> None:
    """Raise GtaError where a file is not what the folder's marker has the digest of, `files` of `mark`; absent ones
    were deleted on purpose."""
    sealed = read_json(folder / MARKER).get("files", {}) if (folder / MARKER).exists() else {}
    with reading(folder / MARKER, "a marker"):
        listed = {folder / str(name): str(digest) for name, digest in sealed.items()}
    for path, digest in listed.items():
        if path.is_file() and file_digest(path) != digest:
            raise GtaError(f"{path} is not what was written: it is damaged or was changed. {way_out}".rstrip())


def check_replaceable(folder: Path, kind: Kind) -> None:
    """Raise GtaError unless the folder is of this kind, holds nothing else, and is no place that matters to others."""
    place, here, home = folder.resolve(), Path.cwd(), Path.home().resolve()
    if any(place == own or place in own.parents for own in (here, home)):
        raise GtaError(f"--out {folder} is the working or home directory, or above it: give another folder.")
    if read_marker(folder, kind) is None:
        raise GtaError(f"--out {folder} is no {kind.name} that gta wrote (no {MARKER} says so): it is not overwritten.")
    ours = _ours(folder, kind)
    foreign = [path.relative_to(folder).as_posix() for path in _leaves(folder) if path not in ours]
    if foreign:
        listed = ", ".join(sorted(foreign)[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise GtaError(
            f"--out {folder} holds what gta did not write: {listed}. Move it elsewhere, or give another folder; "
            "nothing was deleted."
        )


def remove(folder: Path, kind: Kind) -> None:
    """Delete what is ours in a folder, and the folder if nothing else is in it."""
    for path in sorted(_ours(folder, kind) - {folder / MARKER}, reverse=True):  # what is inside before its folder
        if path.is_dir() and not path.is_symlink():
            _remove_empty(path)
        else:
            path.unlink(missing_ok=True)
            for above in path.relative_to(folder).parents:
                _remove_empty(folder / above)
    (folder / MARKER).unlink(missing_ok=True)
    _remove_empty(folder)


def beside(folder: Path, word: str) -> Path:
    """Where the new folder waits, or the old one: `.NAME.new`, `.NAME.old`."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.{word}")


@contextmanager
def new_folder(folder: Path, kind: Kind, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which then takes the place of `folder`: absent, empty or, with `replace`, of this kind.

    Raises:
        GtaError: `folder` holds something that is not to be replaced, or is in use.
    """
    new = beside(folder, "new")
    with locked(folder):
        recover(folder, kind)
        there = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if there and not replace:
            raise GtaError(f"--out {folder} is there already: give another folder, or add --overwrite.")
        if there:
            check_replaceable(folder, kind)
        new.mkdir()
        try:
            mark(new, kind)
            yield new
            inside = (path for path in new.rglob("*") if path.name != MARKER)
            mark(new, kind, written=[path.relative_to(new).as_posix() for path in inside])
            if there:
                put_in_place(folder, kind)
            else:
                new.replace(folder.resolve())  # of an empty one as well
        finally:
            shutil.rmtree(new, ignore_errors=True)


def put_in_place(folder: Path, kind: Kind) -> None:
    """Replace a folder by the one beside it; a kill between leaves what `recover` completes."""
    check_replaceable(folder, kind)  # something may have been put there since
    place, new, old = folder.resolve(), beside(folder, "new"), beside(folder, "old")
    place.rename(old)
    new.rename(place)
    remove(old, kind)


def recover(folder: Path, kind: Kind) -> None:
    """Complete what a killed process began beside a folder that this process holds."""
    place, new, old = folder.resolve(), beside(folder, "new"), beside(folder, "old")
    if not place.exists() and old.is_dir():
        (new if new.is_dir() else old).rename(place)
    for left in (new, old):
        if left.is_dir() and read_marker(left, kind) is not None:
            remove(left, kind)


def _leaves(folder: Path) -> Iterator[Path]:
    """Files, links and empty folders."""
    for place, folders, files in os.walk(folder):
        inside = [Path(place, name) for name in folders]
        yield from (Path(place, name) for name in files)
        yield from (path for path in inside if path.is_symlink() or not any(path.iterdir()))


def _ours(folder: Path, kind: Kind) -> set[Path]:
    """A file that is being written has `.new` behind its name."""
    patterns = (MARKER, *kind.files)
    found = {path for pattern in patterns for ending in ("", ".new") for path in folder.glob(pattern + ending)}
    written = (read_marker(folder, kind) or {}).get("written", [])
    return found | {folder / str(name) for name in written if ".." not in Path(str(name)).parts and name[:1] != "/"}


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
