"""Data sets that torchvision has a class for: its reading of the official lists, in a folder of any name."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gta.data.readers.archives import inside, need
from gta.data.sample import Listing, Sample


@dataclass(frozen=True)
class Torchvision:
    """Reads and downloads a data set through its class in torchvision.datasets.

    Attributes:
        kind: the class.
        folder: what it wants the unpacked archives' folder to be called, such as "dtd/dtd".
        splits: per split of ours, the class's arguments.
        needs: what must lie in the folder; the class does not say what it misses.
        files: image paths, labels and, if any, mask paths of an object of the class; absent masks are left out.
        mask_kind: see `gta.data.images.open_mask`.
        archive_folder: of `folder`, what the archives do not bring along; None where they bring all.
    """

    kind: type[Any]
    folder: str
    splits: Mapping[str, Mapping[str, Any]]
    needs: Sequence[str] = ()
    files: Callable[[Any], tuple[Sequence[Any], ...]] = lambda data: (data._image_files, data._labels)
    mask_kind: str = "any"
    archive_folder: str | None = None

    def read(self, root: Path) -> Listing:
        """List the images in `root`, which is the folder under any name, or one above it.

        Raises:
            RuntimeError, OSError, ValueError, KeyError: what the class raises where something is not there.
        """
        base = _base(root, self.folder)
        need(base, self.needs)
        # Images are counted and read here; the class's checksums are for what it downloads.
        unchecked: Any = type(self.kind.__name__, (self.kind,), {"_check_integrity": lambda self: True})
        samples: dict[str, list[Sample]] = {}
        with _called(self.folder, base) as parent:

            def name(path: Any) -> str:
                return Path(path).relative_to(parent / self.folder).as_posix()

            for split, arguments in self.splits.items():
                data = unchecked(str(parent), **arguments)
                paths, labels, *more = self.files(data)
                masks = [m if (m := base / name(path)).is_file() else None for of in more for path in of]
                samples[split] = [
                    Sample(base / name(path), name(path), int(label), mask, self.mask_kind)
                    for path, label, mask in zip(paths, labels, masks or [None] * len(paths), strict=True)
                ]
        return Listing(base, tuple(map(str, data.classes)), samples)

    def fetch(self, root: Path) -> None:
        """Download the archives into `root`, with the class's checksums."""
        with _called(self.archive_folder, _base(root, self.archive_folder or "")) as parent:
            for arguments in self.splits.values():
                self.kind(str(parent), download=True, **arguments)


def _base(root: Path, folder: str) -> Path:
    """`root` itself, or what lies in it under the folder's name or the end of that name."""
    parts = folder.split("/")
    return inside(root, *("/".join(parts[i:]) for i in range(len(parts))))


@contextmanager
def _called(folder: str | None, base: Path) -> Iterator[Path]:
    """A parent folder in which `base` goes by the name that a class insists on; `base` where it insists on none."""
    if folder is None:
        yield base
        return
    with tempfile.TemporaryDirectory(prefix="gta-") as room:
        link = Path(room) / folder
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(base.resolve(), link, target_is_directory=True)
        yield Path(room)
