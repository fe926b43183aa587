"""Views: the augmented or plain tensors that models see, and the loaders that bring them.

A training view is a function of (seed, epoch, image) and nothing else: not of the number of workers, of the
method, or of whether the run was interrupted. Where source rows are reused each image has an endless list of views,
each a function of (number of the view, content of the image's file), and a run takes a few of them in turn.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from gta.acceleration.row_store import RowStore
from gta.data.images import open_mask, open_objects, open_rgb
from gta.data.sample import Sample

FINGERPRINTS = 16  # views: enough for most of RandAugment's operations
BICUBIC = v2.InterpolationMode.BICUBIC


def seed_of(*parts: int) -> int:
    """One 63-bit seed of several integers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


class EpochSampler(Sampler[int]):
    """Shuffles the training set anew each epoch; yields epoch · n + index, so that a view knows its epoch.

    With several processes each takes every world-th index of the same shuffle, padded to equal length.
    """

    def __init__(self, n: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:  # called by Lightning
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n // self.world)

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(seed_of(self.seed, self.epoch)))
        padded = torch.cat([order, order[: len(self) * self.world - self.n]])
        return iter((padded[self.rank :: self.world] + self.epoch * self.n).tolist())


class TrainViews(Dataset[tuple[Tensor, ...]]):
    """Augmented training images: RandomResizedCrop(0.5 … 1), flip, RandAugment(2, 9).

    RandAugment is the paper's; its strength and the crop are this package's (the paper gives neither).
    Item: image (3, size, size) uint8, see `normalised`; label; and, with a store, the source's rows (L, H, N) float16.
    """

    def __init__(self, samples: Sequence[Sample], size: int, seed: int, views: int = 0, views_seed: int = 0) -> None:
        """
        Args:
            samples: the training images.
            size: side of the views in px.
            seed: of views that are drawn anew.
            views: how many each image has, drawn anew for every epoch where 0.
            views_seed: which: the views_seed-th so many of each image's list.
        """
        self.samples, self.size, self.seed, self.views, self.views_seed = samples, size, seed, views, views_seed
        self.store: RowStore | None = None
        self.view = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.RandAugment(num_ops=2, magnitude=9),
                v2.PILToTensor(),
            ]
        )
        self._decoded = Decoded(size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Any, ...]:
        epoch, index = divmod(position, len(self.samples))
        sample = self.samples[index]
        if not self.views:
            return self.draw(sample, seed_of(self.seed, epoch, index)), sample.label
        pair = (sample.sha256, self.number(epoch))
        rows = () if self.store is None else (self.store.read(pair),)
        return self.draw(sample, view_seed(*pair)), sample.label, *rows

    def number(self, epoch: int) -> int:
        """In each image's list, of the view that an epoch shows where each image has a fixed number of them."""
        return self.views_seed * self.views + epoch % self.views

    def draw(self, sample: Sample, seed: int) -> Tensor:
        """One view of an image: (3, size, size) uint8."""
        return self._seen(self._decoded.open(sample.path), seed)

    def fingerprint(self) -> str:
        """SHA-256 of views of a picture made for it: another one wherever pixels are made in another way."""
        side = 5 * self.size  # large enough to be reduced
        noise = torch.randint(256, (3, side, side + 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        picture = reduced(v2.functional.to_pil_image(noise), self.size)
        pixels = (self._seen(picture, view_seed(f"{i:x}", i)).numpy().tobytes() for i in range(FINGERPRINTS))
        return hashlib.sha256(b"".join(pixels)).hexdigest()

    def _seen(self, image: Image.Image, seed: int) -> Tensor:
        generator = torch.default_generator  # torchvision draws from it
        before = generator.get_state()
        try:
            generator.manual_seed(seed)
            return self.view(image)
        finally:
            generator.set_state(before)


def view_seed(sha256: str, view: int) -> int:
    """Seed of an image's view, the same in every run."""
    return seed_of(int(sha256, 16), view)


class Decoded:
    """Photographs in memory as 8-bit RGB, decoded once, as far as a quarter of the free memory goes.

    Whether one is kept or not changes nothing: all are `reduced`.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[Path, Image.Image] = {}
        self._room: float | None = None

    def __getstate__(self) -> dict[str, Any]:  # loader processes that are not forked keep their own
        return {**self.__dict__, "_kept": {}, "_room": None}

    def open(self, path: Path) -> Image.Image:
        image = self._kept.get(path)
        if image is None:
            image = reduced(open_rgb(path), self._size)
            if self._room is None:
                workers = torch.utils.data.get_worker_info()
                self._room = free_memory() / 4 / (1 if workers is None else workers.num_workers)
            self._room -= 3 * image.width * image.height
            if self._room > 0:
                self._kept[path] = image
        return image


def reduced(image: Image.Image, size: int) -> Image.Image:
    """An image with the shorter side at most twice that of a view; crops of half its area are still larger than one."""
    return v2.functional.resize(image, [2 * size], interpolation=BICUBIC) if min(image.size) > 2 * size else image


def free_memory() -> float:
    """Bytes of main memory that are not in use; 4 GB where the system does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return 4e9


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, height, width) uint8 as models take them: float32."""
    return v2.functional.normalize(v2.functional.to_dtype(images, torch.float32, scale=True), list(mean), list(std))


class TestViews(Dataset[tuple[Tensor, int, Tensor]]):
    """Images as evaluated: shorter side resized to `size`, centre cropped.

    Item: image (3, size, size) float32 normalised; label; mask (size, size) float32 in {0, 1}, or NaN
    throughout where the image has none or its object lies outside the frame.
    """

    __test__ = False  # no pytest class

    def __init__(self, samples: Sequence[Sample], size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.samples, self.size = samples, size
        self.view = test_view(size, mean, std)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor]:
        sample = self.samples[index]
        if sample.mask is None:
            mask = torch.full((self.size, self.size), torch.nan)
        else:
            mask = (
                v2.functional.pil_to_tensor(framed(open_mask(sample.mask, sample.mask_kind), self.size))[0] > 0
            ).float()
            if not mask.any():  # the object lies outside the frame: nothing to measure
                mask = mask * torch.nan
        return self.view(open_rgb(sample.path)), sample.label, mask


class ObjectViews(Dataset[tuple[Tensor, Tensor]]):
    """Images in a frame of `FRAMES`, with the objects of their masks apart.

    Item: image (3, size, size) float32 normalised; objects (size, size) int64: 0 for the background, else the object's
    number; all 0 where there is no mask or the object lies outside the frame.
    """

    def __init__(
        self, samples: Sequence[Sample], size: int, mean: Sequence[float], std: Sequence[float], frame: str = "whole"
    ) -> None:
        self.samples, self.size, self.frame = samples, size, FRAMES[frame]
        self.view = test_view(size, mean, std, self.frame)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        objects = torch.zeros((self.size, self.size), dtype=torch.int64)
        if sample.mask is not None:
            numbers = self.frame(open_objects(sample.mask, sample.mask_kind), self.size)
            objects = v2.functional.pil_to_tensor(numbers)[0].long()
        return self.view(open_rgb(sample.path)), objects


def framed(image: Image.Image, size: int) -> Image.Image:
    """The central square at `size` px: the same frame for photographs and masks."""
    side = min(image.size)
    return squeezed(v2.functional.center_crop(image, [side, side]), size)


def squeezed(image: Image.Image, size: int) -> Image.Image:
    """The whole image as a square of `size` px, photograph or mask."""
    way = v2.InterpolationMode.NEAREST if image.mode == "L" else BICUBIC
    return v2.functional.resize(image, [size, size], interpolation=way)


FRAMES = {"whole": squeezed, "square": framed}


def test_view(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    frame: Callable[..., Image.Image] = framed,  # noqa: PT028 (no test)
) -> v2.Compose:
    """RGB image -> (3, size, size) float32 normalised."""
    return v2.Compose(
        [
            v2.Lambda(partial(frame, size=size)),  # picklable, for loader processes that are not forked
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )


def workers_for(accelerator: str) -> int:
    """Loader processes: none where the CPU trains (they would take its cores), else one per core up to 8."""
    return 0 if accelerator == "cpu" else min(8, os.cpu_count() or 1)


def loader(views: Dataset[Any], batch_size: int, workers: int, **more: Any) -> DataLoader[Any]:
    """A DataLoader that keeps its workers alive between epochs."""
    return DataLoader(
        views,
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **more,
    )
