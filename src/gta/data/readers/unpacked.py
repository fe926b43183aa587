"""Sets that come as arrays are written out once as ordinary image files, so that everything else sees only those."""

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from gta.data.readers.folders import by_class, folder_samples
from gta.data.sample import SPLITS, Listing
from gta.files import atomic_folder, reading

_CLASSES = "classes.json"
Item = tuple[str, int, str, bytes]  # split, label, suffix, content of the image file


def unpacked(folder: Path, classes: Sequence[str], items: Iterator[Item]) -> Listing:
    """The images in `folder`, written there first, as SPLIT/LABEL/NUMBER.png, unless they are.

    Args:
        folder: complete or absent, also after a kill.
        classes: names in label order.
        items: yields the images; not begun where they are there.

    Raises:
        OSError: the folder cannot be written, or what `items` reads is not there.
    """
    if not (folder / _CLASSES).is_file():
        first = [*islice(items, 1)]  # what is not there is noticed before any folder is made
        with atomic_folder(folder) as new:
            for number, (split, label, suffix, content) in enumerate(chain(first, items)):
                path = new / split / f"{label:04}" / f"{number:07}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            (new / _CLASSES).write_text(json.dumps(list(classes), ensure_ascii=False), encoding="utf-8")
    with reading(folder / _CLASSES, "a list of classes", f"Delete the folder {folder}, and it is made anew."):
        names = list(json.loads((folder / _CLASSES).read_text(encoding="utf-8")))
    labels = [f"{label:04}" for label in range(len(names))]
    there = [split for split in SPLITS if (folder / split).is_dir()]
    splits = {split: folder_samples(folder, labels, by_class(folder / split)) for split in there}
    return Listing(folder, tuple(names), splits)


def png(pixels: np.ndarray) -> bytes:
    """An image, (height, width) or (height, width, 3) uint8, as the content of a PNG file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
