"""A run folder as a report reads it: its files as arrays and numbers, whatever of them is there."""

import io
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from gta.errors import GtaError
from gta.files import reading
from gta.folders import check_sealed
from gta.tables import read_csv

Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """Guesses on one split, in its order.

    Attributes:
        split: test, or val where there is no test.
        paths: of the images, inside the data folder.
        labels: (n,) index of each one's class.
        probabilities: (n, classes) float64.
    """

    split: str
    paths: list[str]
    labels: Array
    probabilities: Array

    @property
    def guesses(self) -> Array:
        return self.probabilities.argmax(1)

    @property
    def right(self) -> Array:
        return self.guesses == self.labels

    @property
    def confidence(self) -> Array:
        return self.probabilities.max(1)


class RunFiles:
    """A complete run folder. What an earlier version did not write is None or empty."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            GtaError: no complete run there.
        """
        self.folder, self.name = folder, folder.resolve().name
        if not (folder / "results.json").is_file():
            begun = " Its training is not finished: go on with gta train --out FOLDER --resume."
            hint = begun if (folder / "config.yaml").is_file() else ""
            raise GtaError(f"{folder} is not a complete run: it has no results.json.{hint}")
        with reading(folder, "a run"):
            check_sealed(folder, "Delete it and results.json, and gta train --out FOLDER --resume writes both again.")
            self.results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            config = folder / "config.yaml"
            written = config.read_text(encoding="utf-8") if config.is_file() else "{}"
            self.options: dict[str, Any] = yaml.safe_load(written)
            if not (isinstance(self.results, dict) and isinstance(self.options, dict)):
                raise ValueError("results.json and config.yaml must hold names with values")
            self.metrics = read_csv(folder / "metrics.csv")
            self._rows = read_csv(folder / "predictions.csv")
            self.features = _arrays(folder / "features.npz")
            self.attention = _arrays(folder / "attention.npz")
            kept = sorted((folder / "attention").glob("*.npz"))
            self.epochs: list[Array] = [_arrays(path)["target"] for path in kept]

    @cached_property
    def classes(self) -> list[str]:
        return [column[2:] for column in self._rows[0] if column.startswith("p:")] if self._rows else []

    def predictions(self, split: str) -> Predictions | None:
        """Of a split; None where there are none."""
        rows = [row for row in self._rows if row["split"] == split]
        if not rows:
            return None
        index = {name: i for i, name in enumerate(self.classes)}
        return Predictions(
            split,
            [row["path"] for row in rows],
            np.array([index[row["label"]] for row in rows]),
            np.array([[float(row[f"p:{name}"]) for name in self.classes] for row in rows]),
        )

    @cached_property
    def shown(self) -> Predictions | None:
        """The predictions that a page is about: on test, or on val where there is no test."""
        return self.predictions("test") or self.predictions("val")

    def pictures(self, rows: list[int]) -> dict[int, Image.Image]:
        """Images as the models saw them, by row of `features`, as far as they were kept."""
        path = self.folder / "images.zip"
        if not path.is_file():
            return {}
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            return {
                row: Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                for row in rows
                if (name := f"{row:06}.webp") in there
            }


def _arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file, none where there is no file; no pickles are opened."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
