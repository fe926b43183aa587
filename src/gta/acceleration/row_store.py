"""Source rows computed once and replayed: they are a function of the pixels alone.

A store is a folder for one *key*, everything that rows depend on besides the image and the number of its view: the
source's weights, the guided layers, the transform, the versions of what computes them. Inside it a *shard* holds
the rows of some (image, view) pairs, an image being the SHA-256 of its file:

    ROOT/KEY/key.json           the key, to read
    ROOT/KEY/SHARD/pairs.json   [[sha256, view], …]
    ROOT/KEY/SHARD/rows.npy     (pairs, L, H, N) float16
    ROOT/KEY/SHARD/sums.npy     (pairs,) uint32, CRC-32 of each pair's rows

A shard is written beside its place and renamed into it when it is complete, and never changed: a crash leaves nothing
that is read, and another run, also one of other images, adds a shard of what is missing. Every read checks the CRC.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from gta.errors import GtaError
from gta.files import atomic_folder, reading

Pair = tuple[str, int]  # SHA-256 of an image's file, number of the view
LARGEST = float(np.finfo(np.float16).max)


class RowStore:
    """The rows of a source that are stored under one key.

    Attributes:
        folder: of the key.
        shape: (L, H, N) of the rows of one view.
    """

    def __init__(self, root: Path, key: Mapping[str, Any], shape: Sequence[int]) -> None:
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self._key = {**key, "shape": list(self.shape)}
        text = json.dumps(self._key, sort_keys=True)
        self.folder = Path(root) / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._place: dict[Pair, tuple[Path, int]] = {}
        self._open: dict[Path, tuple[Any, Any]] = {}  # memory-mapped rows and their sums, by shard
        self._listed: set[Path] = set()

    def __getstate__(self) -> dict[str, Any]:  # loader processes open the files themselves
        return {**self.__dict__, "_open": {}}

    def missing(self, pairs: Iterable[Pair]) -> list[Pair]:
        """Those of the pairs, each once, that no complete shard holds."""
        self._list()
        return [pair for pair in dict.fromkeys(pairs) if pair not in self._place]

    def bytes_for(self, pairs: int) -> int:
        """Size on disk of the rows of so many pairs."""
        return pairs * (2 * int(np.prod(self.shape)) + 4)

    def read(self, pair: Pair) -> Tensor:
        """The rows of a pair that is not missing: (L, H, N) float16.

        Raises:
            GtaError: what the file holds is not what was written.
        """
        shard, at = self._place[pair]
        with reading(shard / "rows.npy", "stored rows", _again(shard)):
            if shard not in self._open:
                self._open[shard] = (np.load(shard / "rows.npy", mmap_mode="r"), np.load(shard / "sums.npy"))
            rows, sums = self._open[shard]
            found = np.array(rows[at])
            if found.shape != self.shape or found.dtype != np.float16 or zlib.crc32(found.data) != sums[at]:
                raise ValueError("it is not what was written")
            return torch.from_numpy(found)

    def check_room(self, pairs: int) -> None:
        """Raise GtaError where the disk cannot hold the rows of so many more pairs, or the folder cannot be made."""
        needed = self.bytes_for(pairs)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise GtaError(f"--reuse-dir: {self.folder} cannot be made: {error.strerror or error}.") from error
        if needed > free:
            raise GtaError(
                f"the source's rows of {pairs} views take {readable_size(needed)}, and {self.folder} has "
                f"{readable_size(free)} left: give another --reuse-dir, fewer --views or --layers, or no --reuse."
            )

    @contextmanager
    def filling(self) -> Iterator[None]:
        """One process at a time; what processes that died have left half done is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):  # let go when the process ends, however it ends
            for unfinished in self.folder.glob(".*.new"):
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.with_suffix(".lock").unlink(missing_ok=True)
            (self.folder / "key.json").write_text(json.dumps(self._key, indent=2, sort_keys=True), encoding="utf-8")
            yield

    def add(self, pairs: Sequence[Pair], rows: Iterable[Tensor]) -> None:
        """Write a shard; to be called inside `filling`.

        Args:
            pairs: at least one, none of which is stored.
            rows: theirs in order, in batches (b, L, H, N) of any float dtype.

        Raises:
            GtaError: rows of another number or shape, beyond what half precision holds, or a disk that is full;
                nothing is left then.
        """
        name = hashlib.sha256(repr(list(pairs)).encode()).hexdigest()[:16]
        try:
            with atomic_folder(self.folder / name) as new:
                np.save(new / "sums.npy", self._write_rows(new / "rows.npy", len(pairs), rows))
                (new / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
        except OSError as error:
            raise GtaError(f"{self.folder} cannot be written: {error.strerror or error}.") from error
        self._list()

    def _write_rows(self, path: Path, pairs: int, rows: Iterable[Tensor]) -> np.ndarray:
        sums = np.zeros(pairs, np.uint32)
        done = 0
        with path.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": (pairs, *self.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in rows:
                if tuple(batch.shape[1:]) != self.shape or done + len(batch) > pairs:
                    raise GtaError(f"rows {tuple(batch.shape)} do not fit {pairs - done} more of {self.shape}.")
                if not float(batch.abs().max()) < LARGEST:
                    raise GtaError(
                        f"the source's attention logits reach {float(batch.abs().max()):.3g}, which half precision "
                        "cannot hold: leave --reuse out."
                    )
                for one in batch.half().cpu().numpy():
                    sums[done] = zlib.crc32(np.ascontiguousarray(one).data)
                    file.write(one.tobytes())
                    done += 1
        if done != pairs:
            raise GtaError(f"{done} rows were given for {pairs} views.")
        return sums

    def _list(self) -> None:
        for path in self.folder.glob("[!.]*/pairs.json"):
            if path.parent not in self._listed:
                self._listed.add(path.parent)
                with reading(path, "a list of stored rows", _again(path.parent)):
                    for at, (sha, view) in enumerate(json.loads(path.read_text(encoding="utf-8"))):
                        self._place.setdefault((sha, view), (path.parent, at))


def _again(shard: Path) -> str:
    return f"Delete the folder {shard}, and it is made anew."


def check_replay(stored: Tensor, fresh: Sequence[Tensor]) -> None:
    """Compare stored rows with those that the source gives now of the same pixels.

    Args:
        stored: (b, L, H, N) float16.
        fresh: L tensors (b, H, N) float32, computed in the precision that autocast has just now.

    Raises:
        GtaError: they differ by more than that precision, half precision and the order of a sum explain.
    """
    now = torch.stack([row.float() for row in fresh], 1)
    device = now.device.type
    computed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float16
    rounding = 2 * max(torch.finfo(dtype).eps for dtype in (computed, torch.float16))
    difference = (stored.to(now) - now).abs()
    allowed = rounding * (now.abs().amax((2, 3), keepdim=True) + 0.5)
    if not bool((difference <= allowed).all()):
        raise GtaError(
            f"the stored rows are not the source's of these images (they differ by {float(difference.max()):.3g}, "
            f"of which {float(allowed.max()):.3g} is rounding): a file was changed while it was used. Start again."
        )


def readable_size(count: float) -> str:
    """Bytes as they are read: 33.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
