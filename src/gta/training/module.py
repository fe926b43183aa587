"""The Lightning module of every method."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from gta.data.transforms import seed_of
from gta.methods.base import Batches
from gta.methods.compose import ComposedMethod
from gta.training.optimiser import parameter_groups, rate
from gta.training.options import TrainOptions

Replay = Callable[[Tensor, Tensor, bool], Mapping[str, Any]]


class FineTuning(L.LightningModule):
    """Cross-entropy plus the method's penalty, AdamW, warm-up and cosine."""

    def __init__(
        self,
        method: ComposedMethod,
        options: TrainOptions,
        steps: int,
        training_images: Batches,
        normalise: Callable[[Tensor], Tensor],
        replay: Replay | None = None,
    ) -> None:
        """
        Args:
            method: the target, the source and what is done to them.
            options: of the run.
            steps: optimiser steps in all.
            training_images: iterates over the training images, unaugmented, for methods that look at them first.
            normalise: makes the training views, uint8, what models take.
            replay: what is known of the source on images from the rows stored for them, and whether to check these.
        """
        super().__init__()
        self.method = method
        self.options = options
        self.steps = steps
        self.training_images = training_images
        self.normalise = normalise
        self.replay = replay
        self.latest: dict[str, float | Tensor] = {}

    def on_train_start(self) -> None:
        self.method.prepare(lambda: ((x.to(self.device), y.to(self.device)) for x, y in self.training_images()))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        # Dropout and drop-path draw from here: a step is the same whether or not the run was resumed before it.
        torch.manual_seed(seed_of(self.options.seed, self.global_step, self.global_rank))
        images, labels, *rows = batch
        images = self.normalise(images)
        self.method.begin_step(self.global_step, self.steps)
        stored = self.replay(images, rows[0], batch_idx == 0) if rows and self.replay is not None else None
        done = self.method(images, labels, stored)
        hits = done.hits.float().mean() * 100
        self.latest = {"loss": done.loss.detach(), "penalty": done.penalty.detach(), "top1": hits}
        self.log_dict(self.latest, prog_bar=True, batch_size=len(labels))
        weight = self.method.current_weight()
        if weight is not None:
            self.latest["weight"] = weight
        return done.loss + done.penalty

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        images, labels, _ = batch
        hits = (self.method.model(images).argmax(-1) == labels).float().mean() * 100
        self.log("val_top1", hits, prog_bar=True, on_epoch=True, batch_size=len(labels), sync_dist=True)

    def configure_optimizers(self) -> Any:
        options = self.options
        groups = parameter_groups(self.method.model, options, own=list(self.method.own.parameters()))
        optimizer = torch.optim.AdamW(groups)
        edges = [0, *(math.ceil(share * self.steps - 1e-9) for share in self.method.restarts), self.steps]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, edges))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
