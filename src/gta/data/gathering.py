"""The image files that a user names: files, folders, patterns, tables, or a list on standard input."""

import csv
import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from gta.data.images import is_image_name
from gta.errors import GtaError


def image_paths(words: str | Path | Iterable[str | Path], listed: Iterable[str] = ()) -> list[str]:
    """The images that words name, each once, in the order of the words.

    Args:
        words: one or more: image files; folders, whose images are taken at any depth, hidden ones left out; patterns
            such as `shots/**/*.jpg`; .csv files with a column `path`, relative to the file; or "-" for `listed`.
        listed: lines of image files or folders.

    Returns:
        Paths. Files that do not exist are among them: whoever reads them says so.

    Raises:
        GtaError: a folder without images, or a table without the column.
    """
    found: dict[str, None] = {}
    for word in [words] if isinstance(words, (str, Path)) else words:
        if str(word) == "-":
            for line in listed:
                if line.strip():
                    found.update(dict.fromkeys(_of(line.rstrip("\r\n"))))
        else:
            found.update(dict.fromkeys(_of(str(word))))
    return list(found)


def _of(word: str) -> Iterator[str]:
    path = Path(word)
    if path.is_dir():
        if not (images := _inside(path)):
            raise GtaError(f"{path} holds no image at any depth: give a folder of photographs, or files.")
        yield from images
    elif path.exists():
        yield from _table(path) if path.suffix.lower() == ".csv" else [word]
    elif glob.has_magic(word) and (matches := sorted(glob.glob(word, recursive=True))):
        for match in map(Path, matches):
            yield from _inside(match) if match.is_dir() else [str(match)] if is_image_name(match) else []
    else:
        yield word


def _inside(folder: Path) -> list[str]:
    files = (p for p in folder.rglob("*") if is_image_name(p) and p.is_file())
    return [str(p) for p in sorted(files) if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def _table(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GtaError(f"{path} cannot be read as CSV: {error}") from error
    if not rows or "path" not in rows[0]:
        raise GtaError(f"{path} must have lines below a first line with a column called path.")
    return [str(path.parent / row["path"]) for row in rows if row["path"]]
