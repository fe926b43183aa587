"""The order in which training images come, and the loaders that bring them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from gta.data.transforms import seed_of


class EpochSampler(Sampler[int]):
    """Shuffles the training set anew each epoch; yields epoch · n + index, so that a view knows its epoch.

    With several processes each takes every world-th index of the same shuffle, padded to equal length.
    (PyTorch's DistributedSampler yields the index without its epoch.)
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


def workers_for(accelerator: str) -> int:
    """Loader processes: none where the CPU trains (they would take its cores), else one per thread, up to 8."""
    return 0 if accelerator == "cpu" else min(8, torch.get_num_threads())


def loader(views: Dataset[Any], batch_size: int, workers: int, **more: Any) -> DataLoader[Any]:
    """A DataLoader that keeps its workers alive between epochs."""
    more |= {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": torch.cuda.is_available()}
    return DataLoader(views, batch_size, **more)
