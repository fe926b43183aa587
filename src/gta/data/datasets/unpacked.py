"""Sets that come as arrays are written out once as ordinary image files, so that everything else sees only those."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gta.data.datasets.folders import by_class
from gta.data.sample import SPLITS, Listing, Sample

_CLASSES = "classes.json"  # written last: it makes the folder complete
Item = tuple[str, int, str, bytes]  # split, label, suffix, content of the image file


def unpacked(folder: Path, classes: Sequence[str], items: Callable[[], Iterator[Item]]) -> Listing:
    """The images in `folder`, written there first unless they are.

    Args:
        folder: to hold SPLIT/LABEL/NUMBER.png; complete or absent, also after a kill.
        classes: names in label order.
        items: yields the images.

    Raises:
        OSError: the folder cannot be written, or what `items` reads is not there.
    """
    if not (folder / _CLASSES).is_file():
        new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
        try:
            shutil.rmtree(new, ignore_errors=True)
            for number, (split, label, suffix, content) in enumerate(items()):
                path = new / split / f"{label:04}" / f"{number:07}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            (new / _CLASSES).write_text(json.dumps(list(classes), ensure_ascii=False), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return _listing(folder)


def _listing(folder: Path) -> Listing:
    classes = tuple(json.loads((folder / _CLASSES).read_text(encoding="utf-8")))
    splits = {
        split: [
            Sample(path, path.relative_to(folder).as_posix(), int(label))
            for label, paths in by_class(folder / split).items()
            for path in paths
        ]
        for split in SPLITS
        if (folder / split).is_dir()
    }
    return Listing(str(folder), folder, classes, splits)
