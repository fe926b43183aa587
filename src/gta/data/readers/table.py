"""A CSV file with the columns path, label and optionally split (train, val, test) and mask.

Paths are relative to the file. Without a split column all images are training images.
"""

import csv
import os
from pathlib import Path

from gta.data.sample import SPLITS, Listing, Sample
from gta.errors import GtaError
from gta.files import reading

_COLUMNS = ("path", "label", "split", "mask")


def list_table(path: Path) -> Listing:
    """List the images of a CSV file; classes are its labels, sorted.

    Raises:
        GtaError: no such file, columns missing, not known or there twice, empty fields, other splits, or a path in two
            rows.
    """
    with reading(path, "CSV"), path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        columns = [c.strip() for c in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [(reader.line_num, row) for row in reader]
    if not {"path", "label"} <= set(columns) or not set(columns) <= set(_COLUMNS):
        raise GtaError(
            f"{path}: its first line must be path,label and optionally split and mask, got {','.join(columns)!r}."
        )
    if len(set(columns)) < len(columns):
        raise GtaError(f"{path} has a column twice: {','.join(columns)!r}. Leave one of them.")
    labels = {line: (row["label"] or "").strip() for line, row in rows}
    classes = tuple(sorted(set(labels.values()) - {""}))
    splits: dict[str, list[Sample]] = {}
    seen: dict[str, int] = {}
    for line, row in rows:
        if None in row:
            raise GtaError(f"{path}, line {line}: more cells than columns; put text with commas into double quotes.")
        name, split, mask = ((row.get(c) or "").strip() for c in ("path", "split", "mask"))
        name = name and os.path.normpath(name)  # ./a.png is a.png
        split = split or ("" if "split" in columns else "train")
        if not name or not labels[line]:
            raise GtaError(f"{path}, line {line}: path or label is empty.")
        if split not in SPLITS:
            raise GtaError(f"{path}, line {line}: split must be one of {', '.join(SPLITS)}, got {split!r}.")
        if seen.setdefault(name, line) != line:
            other = (
                "" if labels[seen[name]] == labels[line] else f", as {labels[seen[name]]!r} and not {labels[line]!r}"
            )
            raise GtaError(f"{path}, line {line}: {name!r} is in line {seen[name]} already{other}.")
        sample = Sample(path.parent / name, name, classes.index(labels[line]), path.parent / mask if mask else None)
        splits.setdefault(split, []).append(sample)
    if "train" not in splits:
        raise GtaError(f"{path} names no training image.")
    ordered = {split: sorted(samples, key=lambda s: (s.label, s.name)) for split, samples in splits.items()}
    return Listing(path.parent, classes, ordered, title=str(path))
