"""Any image classification data set of the Hugging Face hub, `hf:NAME[?config=…&image=COLUMN&label=COLUMN]`.

NAME may also be a folder with such a data set. Read by the package `datasets`; its image files are written out once, as
they are, to the cache folder ($XDG_CACHE_HOME or ~/.cache, then gta/hf). Splits: train, validation (or val), test.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from PIL import Image

from gta.data.readers.unpacked import Item, unpacked
from gta.data.sample import Listing
from gta.errors import GtaError
from gta.files import cache_folder

_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}
_OPTIONS = ("config", "image", "label")


class Hub:
    """The hub's data sets by their names: their own splits, but those whose labels are kept secret; no masks."""

    def open(self, name: str, where: str, download: bool = False) -> Listing:
        """List a data set of the hub, which is always fetched where it is not there.

        Raises:
            GtaError: `datasets` is not installed, no such data set, no train split, no column of images or class
                labels, or images without a label.
        """
        name, _, query = where.partition("?")
        options = {key: values[0] for key, values in parse_qs(query).items()}
        if not name or not options.keys() <= set(_OPTIONS):
            raise GtaError(f"--data hf:{where}: write hf:NAME, or hf:NAME?label=COLUMN with {', '.join(_OPTIONS)}.")
        found = _load(name, options.get("config"))
        splits = {_SPLITS[split]: rows for split, rows in found.items() if split in _SPLITS}
        if "train" not in splits:
            raise GtaError(f"hf:{name} has the splits {', '.join(found)}, none called train.")
        features = splits["train"].features
        image = _column(name, features, options.get("image"), "image", "Image")
        label = _column(name, features, options.get("label"), "label", "ClassLabel")
        hidden = [k for k, rows in splits.items() if k != "train" and set(rows.unique(label)) <= {-1, None}]
        splits = {split: rows for split, rows in splits.items() if split not in hidden}
        key = hashlib.sha256("\0".join([where, *(rows._fingerprint for rows in splits.values())]).encode()).hexdigest()
        folder = cache_folder("hf", f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name).strip('-')}-{key[:12]}")
        try:
            listing = unpacked(folder, features[label].names, _items(name, splits, image, label))
        except OSError as error:
            raise GtaError(f"hf:{name}: its images cannot be written to {folder} ({error}).") from error
        return replace(listing, title=f"hf:{where}")

    def place(self, where: str) -> tuple[str, str]:
        """No folder of the user's: a name means the same from anywhere."""
        return where, ""


def _load(name: str, config: str | None) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise GtaError("data sets of the hub are read by the package datasets: pip install datasets") from error
    try:
        return dict(datasets.load_dataset(name, config))
    except Exception as error:  # the hub's client raises errors of many packages
        raise GtaError(f"hf:{name} could not be loaded ({type(error).__name__}: {str(error)[:300]}).") from error


def _column(name: str, features: Any, wanted: str | None, option: str, kind: str) -> str:
    """The column that was asked for, or the only one of its kind."""
    fitting = [key for key, feature in features.items() if type(feature).__name__ == kind]
    if wanted in fitting or (wanted is None and len(fitting) == 1):
        return wanted or fitting[0]
    what = f"{wanted!r} is no column of type {kind}" if wanted else f"{len(fitting)} columns are of type {kind}"
    raise GtaError(
        f"hf:{name}: {what}; its columns: {', '.join(f'{k} ({type(f).__name__})' for k, f in features.items())}. "
        f"Name one of type {kind}: hf:{name}?{option}=COLUMN"
    )


def _items(name: str, splits: dict[str, Any], image: str, label: str) -> Iterator[Item]:
    import datasets

    for split, rows in splits.items():
        raw = rows.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        for number, row in enumerate(raw):
            if row[label] is None or row[label] < 0:
                raise GtaError(f"hf:{name}: image {number} of its {split} split has no label.")
            content = row[image]["bytes"]
            if content is None:
                content = Path(row[image]["path"]).read_bytes()
            with Image.open(BytesIO(content)) as file:
                suffix = f".{str(file.format).lower()}"
            yield split, int(row[label]), suffix, content


SET = Hub()
