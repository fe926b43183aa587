"""Files and folders that are written whole or not at all, by one process at a time, and read or refused by name."""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gta.errors import GtaError

_held: set[Path] = set()  # by this process; the system would let it take its own lock twice


@contextmanager
def atomic_write(path: Path, option: str | None = None) -> Iterator[Path]:
    """A path beside `path` to write to; the file written there is renamed to `path` at the end.

    Args:
        path: the file.
        option: the flag by which the user named it; its folder is then made, and a failure is told as that flag's.

    Raises:
        OSError: it cannot be written; names the file.
        GtaError: the same, with `option`.
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
            error.filename = error.filename or str(path)  # of a full disk Python says no more than that
            raise
        raise GtaError(f"{option} {path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, which is absent or empty, to fill; it is renamed to `path` at the end.

    Another process that fills the same one is waited for; what one that was killed has left is removed.

    Raises:
        OSError: it cannot be written, or `path` holds something.
    """
    path = path.resolve()
    new = path.with_name(f".{path.name}.new")
    with locked(path, wait=True):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            written = [*new.rglob("*"), new]
            if len(written) > 100:
                os.sync()  # all of the system's, which is quicker than one by one
            else:
                for inside in written:
                    _sync(inside)
            if path.exists():
                path.rmdir()  # empty, or it fails
            new.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(new, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a file or folder, there or not, by a file beside it, `.NAME.lock`, that says which process holds it.

    The system lets go of it when the process ends, however it ends. Only a lock of another machine, whose processes
    cannot be asked after, is believed as it stands.

    Raises:
        GtaError: another process holds it and is not to be waited for.
        OSError: the lock's folder cannot be made or written.
    """
    path = path.resolve()
    lock = path.with_name(f".{path.name}.lock")
    missing = [folder for folder in lock.parents if not folder.exists()]  # the innermost first
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        number = _acquire(path, lock, wait)
        try:
            _held.add(path)
            yield
        finally:
            _held.discard(path)
            lock.unlink(missing_ok=True)
            os.close(number)
    finally:
        for folder in missing:
            with suppress(OSError):  # it holds something now
                folder.rmdir()


def _acquire(path: Path, lock: Path, wait: bool) -> int:
    """The open lock file."""
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    if path in _held:
        raise GtaError(f"{path} is in use by this process (pid {me['pid']}) already.")
    while True:
        number = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        taken = _take(number, wait)
        try:
            holder = dict(json.loads(os.pread(number, 1000, 0)))
        except (ValueError, TypeError):
            holder = {}
        elsewhere = holder.get("host", me["host"]) != me["host"]
        if elsewhere or not taken:
            os.close(number)
            who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('since', '?')}"
            gone = f" Only where that process is gone for certain, delete {lock}." if elsewhere else ""
            raise GtaError(f"{path} is in use by {who}: wait until it ends, or give another.{gone}")
        with suppress(FileNotFoundError):
            if os.fstat(number).st_ino == lock.stat().st_ino:
                os.ftruncate(number, 0)
                os.pwrite(number, json.dumps(me).encode(), 0)
                return number
        os.close(number)  # whoever held it deleted it just now


def _take(number: int, wait: bool) -> bool:
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextmanager
def reading(path: Path, what: str, way_out: str = "") -> Iterator[None]:
    """Turn whatever a missing, locked or damaged file raises inside into a GtaError that names the file.

    Args:
        path: the file.
        what: what it should be: "YAML".
        way_out: what to do about it, a sentence.
    """
    try:
        yield
    except GtaError:
        raise
    except OSError as error:
        where = path if error.filename is None else os.fsdecode(error.filename)  # may be one inside of it
        raise GtaError(f"{where} cannot be read: {error.strerror or error}. {way_out}".rstrip()) from error
    except Exception as error:  # parsers raise errors of many kinds on damaged files
        line = str(error).strip().partition("\n")[0][:160] or "no more is known"
        raise GtaError(
            f"{path} cannot be read as {what} ({type(error).__name__}: {line}). {way_out}".rstrip()
        ) from error


def read_json(path: Path, way_out: str = "") -> dict[str, Any]:
    """A JSON object.

    Raises:
        GtaError: it cannot be read, or holds something else.
    """
    with reading(path, "a JSON object", way_out):
        return dict(json.loads(path.read_text(encoding="utf-8")))


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file or folder, so that a power cut leaves no empty one."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def printable(text: str) -> str:
    """A name for a picture: bytes of it that are no UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as new:
        new.write_text(text, encoding="utf-8", errors="surrogateescape")  # file names may be any bytes


def json_text(content: Mapping[str, Any]) -> str:
    """What no UTF-8 holds, such as file names of other bytes, becomes escapes. ValueError: NaN or infinity."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text if text == text.encode(errors="replace").decode() else json.dumps(content, indent=2) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json_text(content))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def cache_folder(*parts: str) -> Path:
    """Where this package keeps what can be made again: $XDG_CACHE_HOME or ~/.cache, then gta/…"""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").joinpath("gta", *parts)
