"""What a data set says of itself before any image is opened: classes, splits, and where files and masks lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from gta.errors import GtaError

T = TypeVar("T")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One photograph: its path, its path inside the data folder, its label, and its object mask if any.

    `mask_kind` says how the mask's file is read, see `gta.data.images.open_mask`; `sha256`, of the image's file, is
    known once it was read.
    """

    path: Path
    name: str
    label: int
    mask: Path | None = None
    mask_kind: str = "any"
    sha256: str = field(default="", compare=False)


@dataclass(frozen=True)
class Listing:
    """The images of a data set by split, as its lists or folders name them.

    Attributes:
        title: what messages call it, such as "cub:DIR".
        root: folder that sample names are relative to.
        classes: class names in label order.
        splits: samples of train and test, and of val where the set has one.
    """

    title: str
    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Sample]]


def evenly_spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items, or all where there are fewer, in order and evenly over them."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def need(folder: Path, names: Sequence[str]) -> None:
    """Raise FileNotFoundError, naming them all, where some of these files and folders are not in `folder`."""
    absent = [name for name in names if not (folder / name).exists()]
    if absent:
        raise FileNotFoundError(f"there is no {' and no '.join(absent)} in {folder}")


@dataclass(frozen=True)
class DataSet:
    """A published data set in the folder its official archives unpack to.

    Attributes:
        name: as in --data NAME:ROOT.
        title: its full name, authors and year.
        source: where its archives are had, as a sentence.
        layout: what ROOT must hold, as a sentence.
        classes: how many it has.
        expected: images per split; a copy that has others is refused.
        read: lists the images in ROOT; may raise GtaError, OSError, ValueError, KeyError, IndexError or RuntimeError
            where files are not what they should be.
        fetch: downloads and unpacks the official archives into ROOT; None where no official source works.
    """

    name: str
    title: str
    source: str
    layout: str
    classes: int
    expected: Mapping[str, int]
    read: Callable[[Path], Listing]
    fetch: Callable[[Path], None] | None = None

    def open(self, where: str, download: bool = False) -> Listing:
        """List the set's images and check that all are there.

        Args:
            where: ROOT.
            download: fetch the official archives first where ROOT does not hold the set.

        Raises:
            GtaError: ROOT is not given, does not hold the set, or holds another number of images or classes than the
                official set; or the download is not possible.
        """
        if not where:
            raise GtaError(f"--data {self.name}: lacks the folder: write {self.name}:ROOT. {self.layout}")
        root = Path(where)
        if download:
            self._download(root)
        try:
            listing = self.read(root)
        except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
            if isinstance(error, GtaError):
                raise
            hint = f" Or add --download, which fetches it into {root}." if self.fetch else ""
            raise GtaError(
                f"{self.name}:{root} cannot be read as {self.title} ({type(error).__name__}: {str(error)[:300]}). "
                f"{self.layout} {self.source}{hint}"
            ) from error
        sorted_splits = {k: sorted(v, key=lambda s: (s.label, s.name)) for k, v in listing.splits.items()}
        listing = replace(listing, title=f"{self.name}:{root}", splits=sorted_splits)
        self._check(listing)
        return listing

    def _download(self, root: Path) -> None:
        if self.fetch is None:
            raise GtaError(f"--download cannot fetch {self.name}: {self.source}")
        try:
            self.read(root)
        except (OSError, ValueError, KeyError, IndexError, RuntimeError):  # not there yet, or not whole
            root.mkdir(parents=True, exist_ok=True)
            try:
                self.fetch(root)
            except (OSError, ValueError, RuntimeError) as error:
                raise GtaError(
                    f"{self.name} could not be downloaded ({type(error).__name__}: {str(error)[:200]}). Check the "
                    f"network, or fetch it elsewhere: {self.source}"
                ) from error

    def _check(self, listing: Listing) -> None:
        found = {split: len(samples) for split, samples in listing.splits.items()}
        problems = [
            f"{found.get(split, 0):,} {split} images where the official set has {count:,}"
            for split, count in self.expected.items()
            if found.get(split, 0) != count
        ]
        if len(listing.classes) != self.classes:
            problems.append(f"{len(listing.classes)} classes where it has {self.classes}")
        if problems:
            raise GtaError(
                f"{listing.title} lists {'; '.join(problems)}: it is not the whole official set. {self.layout} "
                f"{self.source} To use a part, write its images as a CSV file of path,label,split, or as folders "
                "train/CLASS/."
            )
        absent = [s.name for samples in listing.splits.values() for s in samples if not s.path.is_file()]
        if absent:
            raise GtaError(
                f"{listing.title} lists {len(absent):,} images that are not there, {absent[0]} among them: unpack the "
                f"images' archive (again). {self.source}"
            )
