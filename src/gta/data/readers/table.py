"""A CSV file with the columns path, label and optionally split (train, val, test) and mask.

Paths are relative to the file. Without a split column all images are training images.
"""

import csv
from pathlib import Path

from gta.data.sample import SPLITS, Listing, Sample
from gta.errors import GtaError

_COLUMNS = ("path", "label", "split", "mask")


def list_table(path: Path) -> Listing:
    """List the images of a CSV file; classes are its labels, sorted.

    Raises:
        GtaError: no such file, columns missing or not known, empty fields, other splits, or a path in two rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [c.strip() for c in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GtaError(f"--data {path} cannot be read as CSV: {error}") from error
    if not {"path", "label"} <= set(columns) or not set(columns) <= set(_COLUMNS):
        raise GtaError(
            f"{path}: its first line must be path,label and optionally split and mask, got {','.join(columns)!r}."
        )
    labels = {line: (row["label"] or "").strip() for line, row in rows}
    classes = tuple(sorted(set(labels.values()) - {""}))
    splits: dict[str, list[Sample]] = {}
    seen: dict[str, int] = {}
    for line, row in rows:
        name, split, mask = ((row.get(c) or "").strip() for c in ("path", "split", "mask"))
        split = split or ("" if "split" in columns else "train")
        if not name or not labels[line]:
            raise GtaError(f"{path}, line {line}: path or label is empty.")
        if split not in SPLITS:
            raise GtaError(f"{path}, line {line}: split must be one of {', '.join(SPLITS)}, got {split!r}.")
        if seen.setdefault(name, line) != line:
            raise GtaError(f"{path}, line {line}: {name} is in line {seen[name]} already.")
        sample = Sample(path.parent / name, name, classes.index(labels[line]), path.parent / mask if mask else None)
        splits.setdefault(split, []).append(sample)
    if "train" not in splits:
        raise GtaError(f"{path} names no training image.")
    ordered = {split: sorted(samples, key=lambda s: (s.label, s.name)) for split, samples in splits.items()}
    return Listing(path.parent, classes, ordered, title=str(path))
