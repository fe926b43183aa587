"""What a data set says of itself before any image is opened: classes, splits, and where files and masks lie."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from gta.errors import GtaError

SPLITS = ("train", "val", "test")
_NO_SET = (OSError, ValueError, KeyError, IndexError, RuntimeError)  # what readers raise for files that are not theirs
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One photograph: its path, its path inside the data folder, its label, and its object mask if any, of a kind that
    `gta.data.images.open_mask` reads. Once it was read: SHA-256 of its file, (width, height) in px as upright. Where it
    is looked at closer: the box (left, top, right, bottom) to look at, in shares of width and height."""

    path: Path
    name: str
    label: int
    mask: Path | None = None
    mask_kind: str = "any"
    sha256: str = field(default="", compare=False)
    size: tuple[int, int] = field(default=(0, 0), compare=False)
    box: tuple[float, float, float, float] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Listing:
    """The images of a data set by split, as its lists or folders name them.

    Attributes:
        root: folder that sample names are relative to.
        classes: class names in label order.
        splits: samples of train and test, and of val where the set has one.
        title: what messages call it, such as "cub:DIR".
        notes: what lies there and is passed over, in sentences.
    """

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Sample]]
    title: str = ""
    notes: tuple[str, ...] = ()


def evenly_spread(items: Sequence[T], count: int) -> list[T]:
    """`count` items (all where there are fewer): the middle ones of as many equal parts, in their order."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


class NamedData(Protocol):
    """What stands under a NAME of `gta.data.datasets.DATASETS`; a `DataSet`, unless NAME: is followed by more."""

    def open(self, name: str, where: str, download: bool = False) -> Listing:
        """List the images of NAME:WHERE, fetched first with `download`; GtaError where they are not as they should."""

    def place(self, where: str) -> tuple[str, str]:
        """WHERE in two: what chooses among several sets, colon included, and the folder; "" for what it lacks."""


@dataclass(frozen=True)
class DataSet:
    """A published data set in the folder its official archives unpack to.

    Attributes:
        title: its full name, authors and year.
        source: where its archives are had, as a sentence.
        layout: what ROOT must hold, as a sentence.
        classes: how many it has.
        expected: images per split; a copy that has others is refused.
        read: lists the images in ROOT; where files are not what they should be it may raise GtaError, OSError,
            ValueError, KeyError, IndexError or RuntimeError.
        fetch: downloads and unpacks the official archives into ROOT; None where no official source works.
    """

    title: str
    source: str
    layout: str
    classes: int
    expected: Mapping[str, int]
    read: Callable[[Path], Listing]
    fetch: Callable[[Path], None] | None = None

    def open(self, name: str, where: str, download: bool = False) -> Listing:
        """List the set's images, sorted by label and name, and check that all are there.

        Args:
            name: what stands before ROOT in the spec, for messages.
            where: ROOT.
            download: fetch the official archives first where ROOT does not hold the set.

        Raises:
            GtaError: ROOT is not given, does not hold the set or not all of it, or the download is not possible.
        """
        if not where:
            raise GtaError(f"--data {name}: lacks the folder: write {name}:ROOT. {self.layout}")
        root = Path(where)
        if download:
            self._download(name, root)
        try:
            listing = self.read(root)
        except GtaError:
            raise
        except _NO_SET as error:
            hint = f" Or add --download, which fetches it into {root}." if self.fetch else ""
            raise GtaError(
                f"{name}:{root} cannot be read as {self.title} ({type(error).__name__}: {str(error)[:300]}). "
                f"{self.layout} {self.source}{hint}"
            ) from error
        splits = {k: sorted(v, key=lambda s: (s.label, s.name)) for k, v in listing.splits.items()}
        listing = replace(listing, title=f"{name}:{root}", splits=splits)
        self._check(listing)
        return listing

    def place(self, where: str) -> tuple[str, str]:
        """ROOT is all of it."""
        return "", where

    def _download(self, name: str, root: Path) -> None:
        if self.fetch is None:
            raise GtaError(f"--download cannot fetch {name}: {self.source}")
        try:
            self.read(root)
        except _NO_SET:  # not there yet, or in part
            root.mkdir(parents=True, exist_ok=True)
            try:
                self.fetch(root)
            except (OSError, ValueError, RuntimeError) as error:
                raise GtaError(
                    f"{name} could not be downloaded ({type(error).__name__}: {str(error)[:200]}). Check the "
                    f"network, or fetch it elsewhere: {self.source}"
                ) from error

    def _check(self, listing: Listing) -> None:
        problems = [
            f"{found:,} {split} images where the official set has {count:,}"
            for split, count in self.expected.items()
            if (found := len(listing.splits.get(split, ()))) != count
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
