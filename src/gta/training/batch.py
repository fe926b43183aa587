"""`--batch-size auto`: as many images a step as fit the device and make sense, and the learning rate for them.

A GPU is tried: whole training steps of 32, 64, … images, until its memory is short or fewer than `STEPS` steps would be
left of the training. A CPU computes a large batch no faster than a small one: there it is 32, fewer where the memory is
short. The learning rate is that of batches of 32 times √(batch / 32), as AdamW's steps ask for (Malladi et al. 2022,
arXiv 2205.10287). What was found stays in the run's folder: a resumed run goes on with it.
"""

import gc
import math
import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gta.devices import default_device, free_memory
from gta.errors import GtaError
from gta.files import read_json, write_json
from gta.methods.compose import ComposedMethod
from gta.training.optimiser import parameter_groups
from gta.training.options import BATCH, TrainOptions
from gta.training.trainer import resolve_precision

STEPS = 150  # of a training, the fewest that a larger batch may leave
ROOM = 0.9  # of the memory that is free: the rest is for what lies between tensors
FILE = "batch.json"
Compose = Callable[[nn.Module], ComposedMethod]


@dataclass(frozen=True)
class Batch:
    """What was found.

    Attributes:
        batch_size: images a step.
        reason: a sentence.
    """

    batch_size: int
    reason: str

    @classmethod
    def of(cls, begun: Path | None, options: TrainOptions, source: Any, compose: Compose, images: int) -> "Batch":
        """That of a run that is gone on with; else it is found.

        Args:
            begun: folder of a run to go on with.
            options: of the run, auto's decisions taken.
            source: from `gta.load_source`.
            compose: makes a target and the methods around a source.
            images: of the training.

        Raises:
            GtaError: several devices; or not even a single image fits.
        """
        if begun is not None and (begun / FILE).is_file():
            return cls(**read_json(begun / FILE, "Delete it, and it is found again."))
        if (options.devices or torch.cuda.device_count()) > 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise GtaError("--batch-size auto is found on one device: add --devices 1, or write a number of images.")
        device = default_device()
        if device.type == "cpu":
            room = ROOM * free_memory() / 2  # decoded images have some of it
            size, most = largest(BATCH, lambda size: step_bytes(source, size) <= room), BATCH
            why = "larger ones are no faster on a CPU"
        else:
            most = most_sensible(images, options.epochs)
            size = largest(most, lambda size: fits(size, options, deepcopy(source), compose, device))
            why = f"twice as many would leave fewer than {STEPS} steps of the training"
        why = why if size == most else f"more do not fit the memory of this {device.type.upper()}"
        rate = options.rates[0]
        scaled = f"{rate:.3g} · √({size} / {BATCH}) = {scaled_rate(rate, size):.3g}"
        return cls(size, f"batches of {size} images: {why}; learning rate {scaled}")

    def applied(self, options: TrainOptions) -> TrainOptions:
        """The options with it."""
        return replace(options, batch_size=self.batch_size, lr=scaled_rate(options.rates[0], self.batch_size))

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))


def scaled_rate(rate: float, size: int) -> float:
    """The learning rate for batches of `size` images, given that for batches of 32."""
    return rate * math.sqrt(size / BATCH)


def most_sensible(images: int, epochs: int) -> int:
    """The largest of 32, 64, 128, … images a step that leaves a training `STEPS` steps; 32 where none does."""
    size = BATCH
    while images // (2 * size) * epochs >= STEPS:
        size *= 2
    return size


def largest(most: int, fit: Callable[[int], bool]) -> int:
    """The largest size that fits: 32, doubled up to `most` while it does, or halved until it does.

    Raises:
        GtaError: 1 does not.
    """
    size = BATCH
    while not fit(size):
        if size == 1:
            raise GtaError("the memory does not suffice for a single image: give a smaller --image-size.")
        size //= 2
    while BATCH <= size < most and fit(2 * size):
        size *= 2
    return size


def step_bytes(source: Any, size: int) -> int:
    """What the activations of a training step of `size` images take, about."""
    tokens = math.prod(source.patch_embed.grid_size)
    return int(64 * size * tokens * source.embed_dim * len(source.blocks))


def fits(size: int, options: TrainOptions, source: nn.Module, compose: Compose, device: torch.device) -> bool:
    """Whether the first and the last step of a training fit the device's memory: tried, on images of noise.

    Args:
        size: images.
        options: of the training.
        source: a copy that may be moved and changed.
        compose: makes a target and the methods around it.
        device: where.
    """
    try:
        free, _ = torch.cuda.mem_get_info(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_reserved(device)
        _steps(size, options, compose(source.to(device)).to(device), device)
        return torch.cuda.max_memory_reserved(device) - before <= ROOM * free
    except torch.OutOfMemoryError:
        return False
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def _steps(size: int, options: TrainOptions, method: ComposedMethod, device: torch.device) -> None:
    side = options.image_size
    images = torch.randn(size, 3, side, side, device=device)
    labels = torch.arange(size, device=device) % method.model.num_classes  # type: ignore[operator]
    method.prepare(lambda: [(images, labels)])
    optimizer = torch.optim.AdamW(parameter_groups(method.model, options, own=list(method.own.parameters())))
    precision = resolve_precision(options.precision)
    low = torch.float16 if precision.startswith("16") else torch.bfloat16
    for done in (0, 1):  # what trains, and what is added, may be another thing at the end
        method.begin_step(done, 2)
        with torch.autocast(device.type, low, enabled=precision != "32-true"):
            step = method(images, labels)
        loss: Tensor = step.loss + step.penalty
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
