"""Data sets that torchvision has a loader for: its reading of the official lists, in a folder of any name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from gta.data.sample import Listing, Sample, need

Reader = Callable[[Any], tuple[Sequence[Any], Sequence[int]]]


def read_with(
    loader: str,
    folder: str,
    root: Path,
    splits: Mapping[str, Mapping[str, Any]],
    files: Reader,
    needs: Sequence[str],
    masks: Callable[[Any], Sequence[Any]] | None = None,
    mask_kind: str = "any",
) -> Listing:
    """List a data set through its torchvision loader.

    Args:
        loader: name of a class of torchvision.datasets.
        folder: what it wants the unpacked archives' folder to be called, such as "dtd/dtd".
        root: that folder under any name, or one above it.
        splits: per split of ours, the loader's arguments.
        files: image paths and labels of a loader.
        needs: what must lie in the folder; loaders do not say what they miss.
        masks: mask paths of a loader, in the order of its images; those that are not there are left out.
        mask_kind: see `gta.data.images.open_mask`.

    Raises:
        RuntimeError, OSError, ValueError, KeyError: what the loader raises where something is not there.
    """
    base = _base(root, folder)
    need(base, needs)
    # Images are counted and read here; a loader's checksums are for what it downloads.
    kind: Any = type(loader, (_loader(loader),), {"_check_integrity": lambda self: True})
    samples: dict[str, list[Sample]] = {}
    classes: tuple[str, ...] = ()
    with _called(folder, base) as parent:

        def home(path: Any) -> Path:
            return base / Path(path).relative_to(parent / folder)

        for split, arguments in splits.items():
            data = kind(str(parent), **arguments)
            paths, labels = files(data)
            beside = (
                [None] * len(paths) if masks is None else [m if (m := home(p)).is_file() else None for p in masks(data)]
            )
            samples[split] = [
                Sample(home(path), home(path).relative_to(base).as_posix(), int(label), mask, mask_kind)
                for path, label, mask in zip(paths, labels, beside, strict=True)
            ]
            classes = tuple(map(str, data.classes))
    return Listing("", base, classes, samples)


def fetch_with(loader: str, folder: str | None = None, **arguments: Any) -> Callable[[Path], None]:
    """A download into any folder through a torchvision loader, with its checksums.

    Args:
        loader: name of a class of torchvision.datasets.
        folder: what it wants the folder to be called; None where the archive brings its folder along.
        arguments: the loader's.
    """

    def fetch(root: Path) -> None:
        if folder is None:
            _loader(loader)(str(root), download=True, **arguments)
            return
        with _called(folder, _base(root, folder)) as parent:
            _loader(loader)(str(parent), download=True, **arguments)

    return fetch


def _loader(name: str) -> type[Any]:
    """Imported when first used: `gta --help` and other sets do not wait for torchvision."""
    found: type[Any] = getattr(import_module("torchvision.datasets"), name)
    return found


def _base(root: Path, folder: str) -> Path:
    """`root` itself, or what lies in it under the folder's name or the end of that name."""
    parts = Path(folder).parts
    inside = (root.joinpath(*parts[i:]) for i in range(len(parts)))
    return next((path for path in inside if path.is_dir()), root)


@contextmanager
def _called(folder: str, base: Path) -> Iterator[Path]:
    """A parent folder in which `base` goes by the name that a loader insists on."""
    with tempfile.TemporaryDirectory(prefix="gta-") as room:
        link = Path(room) / folder
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(base.resolve(), link, target_is_directory=True)
        yield Path(room)
