"""The Lightning module of every method, and the callback that records and checkpoints its epochs."""

from __future__ import annotations

import csv
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from gta.data.transforms import seed_of
from gta.errors import GtaError
from gta.files import atomic_write
from gta.methods.base import Batches, classifier_of
from gta.methods.compose import Recipe
from gta.training.options import TrainOptions

WARM_UP = 0.1  # of all steps
STEM = ("cls_token", "reg_token", "dist_token", "pos_embed", "patch_embed", "norm_pre")


class FineTuning(L.LightningModule):
    """Cross-entropy plus the method's penalty, AdamW, warm-up and cosine."""

    def __init__(
        self,
        method: Recipe,
        options: TrainOptions,
        steps: int,
        training_images: Batches,
        normalise: Callable[[Tensor], Tensor],
    ) -> None:
        """
        Args:
            method: the target, the source and the parts of the method.
            options: of the run.
            steps: optimiser steps in all.
            training_images: iterates over the training images, unaugmented, for methods that look at them first.
            normalise: makes the training views, uint8, what models take.
        """
        super().__init__()
        self.method = method
        self.options = options
        self.steps = steps
        self.training_images = training_images
        self.normalise = normalise
        self.latest: dict[str, float | Tensor] = {}

    def on_train_start(self) -> None:
        self.method.study(lambda: ((x.to(self.device), y.to(self.device)) for x, y in self.training_images()))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        # Dropout and drop-path draw from here: a step is the same whether or not the run was resumed before it.
        torch.manual_seed(seed_of(self.options.seed, self.global_step, self.global_rank))
        images, labels, *rows = batch
        images = self.normalise(images)
        if rows and batch_idx == 0:
            self.method.check_replay(images, rows[0])
        self.method.begin_step(self.global_step, self.steps)
        done = self.method(images, labels, *rows)
        hits = done.hits.float().mean() * 100
        self.latest = {"loss": done.loss.detach(), "penalty": done.penalty.detach(), "top1": hits}
        self.log_dict(self.latest, prog_bar=True, batch_size=len(labels))
        strength = self.method.strength()
        if strength is not None:
            self.latest["weight"] = strength
        return done.loss + done.penalty

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        images, labels, _ = batch
        hits = (self.method.model(images).argmax(-1) == labels).float().mean() * 100
        self.log("val_top1", hits, prog_bar=True, on_epoch=True, batch_size=len(labels), sync_dist=True)

    def configure_optimizers(self) -> Any:
        options = self.options
        groups = parameter_groups(self.method.model, options, own=list(self.method.own.parameters()))
        optimizer = torch.optim.AdamW(groups, lr=options.lr)
        edges = [0, *(math.ceil(share * self.steps - 1e-9) for share in self.method.restarts), self.steps]

        def scale(step: int) -> float:
            return rate(step, edges)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(step: int, edges: Sequence[int]) -> float:
    """Factor of the learning rate: linear warm-up and cosine to zero, anew from each of `edges` but the last."""
    begin, end = next(((a, b) for a, b in pairwise(edges) if step < b), (edges[-2], edges[-1]))
    warm = max(1, round(WARM_UP * (end - begin)))
    if step - begin < warm:
        return (step - begin + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - begin - warm) / max(1, end - begin - warm)))


def parameter_groups(model: nn.Module, options: TrainOptions, own: Sequence[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Groups for AdamW: the backbone's first, then the classifier's, each without and with weight decay.

    With a layer decay the backbone has such a pair for every block, the last block's (with the final norm) first.

    Args:
        model: the target.
        options: lr, head_lr_scale, layer_decay and weight_decay are read.
        own: the method's own parameters; they train like the classifier's.
    """
    classifier = {id(p) for p in (*classifier_of(model), *own)}
    spared = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in (*model.named_parameters(), *(("", p) for p in own)):
        if parameter.requires_grad:
            is_head, decayed = id(parameter) in classifier, parameter.ndim > 1 and name not in spared
            below = 0 if is_head or options.layer_decay == 1 else _blocks_above(model, name)
            groups.setdefault((is_head, below, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": options.lr * (options.head_lr_scale if is_head else options.layer_decay**below),
            "weight_decay": options.weight_decay if decayed else 0.0,
        }
        for (is_head, below, decayed), parameters in sorted(groups.items())
    ]


def _blocks_above(model: nn.Module, name: str) -> int:
    """How many steps of layer decay a parameter has: none above the last block, one more for each below (BEiT, MAE)."""
    depth = len(model.blocks)  # type: ignore[arg-type]
    found = re.match(r"blocks\.(\d+)\.", name)
    if found:
        return depth - int(found[1])
    return depth + 1 if name.split(".")[0] in STEM else 0


class Diverged(GtaError):
    """The loss is no longer finite."""


class Recorder(L.Callback):
    """Writes `metrics.csv` and `last.ckpt` at the end of every epoch, each atomically.

    The rows are part of the checkpoint, so that a resumed run's file has every epoch once.
    """

    COLUMNS = ("epoch", "step", "lr", "loss", "penalty", "weight", "top1", "val_top1", "seconds")
    MEANS = ("loss", "penalty", "top1")

    def __init__(self, folder: Path, data_digest: str) -> None:
        self.folder = folder
        self.data_digest = data_digest
        self.rows: list[dict[str, float]] = []
        self.epochs: list[dict[str, float]] = []
        self._steps: list[tuple[dict[str, float | Tensor], int]] = []  # of this epoch: values, images
        self._lr = self._started = self._ended = self._waited = 0.0
        self._trained: float | None = None  # seconds, once this epoch's validation has begun

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "epochs": self.epochs, "data_digest": self.data_digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["data_digest"] != self.data_digest:
            raise GtaError(
                f"the training images are not those that {self.folder} was begun with: put them back, or start "
                "another run with another --out."
            )
        self.rows, self.epochs = list(state_dict["rows"]), list(state_dict["epochs"])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = self._ended = time.perf_counter()
        self._steps, self._trained, self._waited = [], None, 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waited += time.perf_counter() - self._ended
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]  # the backbone's

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, FineTuning)
        self._steps.append(({"lr": self._lr, **pl_module.latest}, len(batch[1])))
        self._ended = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._trained = time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, first = trainer.current_epoch, trainer.global_step - len(self._steps)
        sizes = [size for _, size in self._steps]
        rows: list[dict[str, float]] = [
            {"epoch": epoch, "step": first + i, **{k: float(v) for k, v in values.items()}}
            for i, (values, _) in enumerate(self._steps)
        ]
        _check_finite(rows)
        seconds = time.perf_counter() - self._started if self._trained is None else self._trained
        summary: dict[str, float] = {
            "epoch": epoch,
            **{k: sum(r[k] * n for r, n in zip(rows, sizes, strict=True)) / sum(sizes) for k in self.MEANS},
            "images": sum(sizes) * trainer.world_size,
            "seconds": seconds,
            "waiting": self._waited,  # for the loader's next batch
        }
        rows[-1]["seconds"] = round(seconds, 3)
        if self._trained is not None:
            rows[-1]["val_top1"] = summary["val_top1"] = float(trainer.callback_metrics["val_top1"])
        self.rows += rows
        self.epochs.append(summary)
        self._save(trainer)
        if trainer.is_global_zero and not sys.stdout.isatty():  # where no progress bar is drawn
            seen = ", ".join(f"{k} {summary[k]:.4g}" for k in (*self.MEANS, "val_top1") if k in summary)
            print(f"epoch {epoch + 1} of {trainer.max_epochs}: {seen}", file=sys.stderr)

    def _save(self, trainer: L.Trainer) -> None:
        new = self.folder / "last.ckpt.new"
        trainer.save_checkpoint(new)  # on every process: sharded strategies gather here
        if trainer.is_global_zero:
            with atomic_write(self.folder / "metrics.csv") as table, table.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.COLUMNS)
                writer.writeheader()
                writer.writerows(self.rows)
            os.replace(new, self.folder / "last.ckpt")  # last: what is resumed from it writes the table anew


def _check_finite(rows: list[dict[str, float]]) -> None:
    for row in rows:
        if not math.isfinite(row["loss"] + row["penalty"]):
            raise Diverged(
                f"the loss is no longer finite (step {row['step']:.0f}: loss {row['loss']}, penalty {row['penalty']}): "
                "start another run with a lower --lr."
            )
