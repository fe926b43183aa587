"""The order in which training images come, and the loaders that bring them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gta.data.transforms import seed_of
from gta.devices import cores

NO_EPOCH = 1_000_003  # more epochs than any training has


class EpochSampler(Sampler[int]):
    """Shuffles the training set anew each epoch; yields epoch · n + index, so that a view knows its epoch.

    With several processes each takes every world-th index of the same shuffle, padded to equal length.
    (PyTorch's DistributedSampler yields the index without its epoch.) With labels, n images are drawn instead, so that
    all classes are equally likely; one that comes again has the view of an epoch that never is.
    """

    def __init__(self, n: int, seed: int, rank: int = 0, world: int = 1, labels: Sequence[int] | None = None) -> None:
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.weights = None if labels is None else class_weights(labels)[torch.tensor(labels)]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:  # called by Lightning
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n // self.world)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        if self.weights is None:
            order = torch.randperm(self.n, generator=generator)
        else:
            drawn = torch.multinomial(self.weights, self.n, replacement=True, generator=generator).tolist()
            times = Counter[int]()
            for place, index in enumerate(drawn):
                drawn[place] += times[index] * NO_EPOCH * self.n
                times[index] += 1
            order = torch.tensor(drawn)
        padded = torch.cat([order, order[: len(self) * self.world - self.n]])
        return iter((padded[self.rank :: self.world] + self.epoch * self.n).tolist())


def class_weights(labels: Sequence[int]) -> Tensor:
    """By class, the inverse of its number of images, (classes,) float32; the mean over images is 1."""
    images = torch.tensor(labels).bincount()
    return len(labels) / (images.count_nonzero() * images.clamp(min=1))


def workers_for(accelerator: str, devices: int = 1) -> int:
    """Loader processes of each device: none where the CPU trains (they would take its cores), else up to 8.

    Together they are no more than there are cores, though one each at least.
    """
    return 0 if accelerator == "cpu" else min(8, max(1, cores() // devices))


def loader(views: Dataset[Any], batch_size: int, workers: int, **more: Any) -> DataLoader[Any]:
    """A DataLoader that keeps its workers alive between epochs."""
    more |= {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": torch.cuda.is_available()}
    return DataLoader(views, batch_size, **more)
