"""What is kept of a training while it runs: metrics.csv and the checkpoint, and the seconds."""

import csv
import math
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from gta.errors import GtaError
from gta.files import atomic_write, reading
from gta.training.finite import check_finite, check_weights
from gta.training.module import FineTuning
from gta.training.run_folder import CHECKPOINT, RunFolder

SAVE_EVERY = 60.0  # seconds
WAY_OUT = {
    "loss": "start another run with a lower --lr",
    "penalty": "start another run with a lower --weight, or a lower --lr",
}


class Recorder(L.Callback):
    """Writes `metrics.csv` at the end of every epoch; `last.ckpt` at the end of the first, of the last, and of those in
    between where a minute has passed since it was written. Each atomically.

    The rows are part of the checkpoint, so that a resumed run's file has every epoch once.
    """

    COLUMNS = ("epoch", "step", "lr", "loss", "penalty", "weight", "top1", "val_top1", "seconds")
    MEANS = ("loss", "penalty", "top1")

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.epochs: list[dict[str, float]] = []
        self._steps: list[tuple[dict[str, float | Tensor], int]] = []  # of this epoch: values, images
        self._saved = -math.inf  # when the checkpoint was written
        self._lr = self._started = self._ended = self._waited = 0.0
        self._trained: float | None = None  # seconds, once this epoch's validation has begun

    @property
    def seconds(self) -> float:
        """Of training, validation left out."""
        return sum(epoch["seconds"] for epoch in self.epochs)

    def last_epoch(self) -> dict[str, float]:
        """What results.json says of the last epoch."""
        last = self.epochs[-1]
        return {"train_loss": last["loss"], "train_top1": last["top1"], "penalty": last["penalty"]}

    def speed(self) -> dict[str, float]:
        """What results.json says of the training's time."""
        return {
            "train_seconds": round(self.seconds, 2),
            "data_wait": round(sum(epoch["waiting"] for epoch in self.epochs) / self.seconds, 4),
            "images_per_second": round(sum(epoch["images"] for epoch in self.epochs) / self.seconds, 2),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "epochs": self.epochs, "run_id": self.folder.id}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
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
        for row in rows:
            found = {key: row[key] for key in ("loss", "penalty")}
            cause = "loss" if not math.isfinite(row["loss"]) else "penalty"
            check_finite(f"in step {row['step']:.0f} the loss is", found, WAY_OUT[cause])
        assert isinstance(pl_module, FineTuning)
        check_weights(pl_module.method.model)  # of the last step as well
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
        if trainer.is_global_zero:
            with atomic_write(self.folder.path / "metrics.csv") as table, table.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.COLUMNS)
                writer.writeheader()
                writer.writerows(self.rows)
        due = trainer.current_epoch + 1 == trainer.max_epochs or time.perf_counter() - self._saved >= SAVE_EVERY
        if trainer.strategy.broadcast(due):
            # Last: what is resumed from it writes the table anew. On every process: sharded strategies gather here.
            trainer.save_checkpoint(self.folder.path / CHECKPOINT)
            self._saved = time.perf_counter()
            if trainer.is_global_zero:
                self.folder.settle()


class Checkpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, beside their place, and reads only what is whole and of this run.

    (Lightning's own writes through $TMPDIR, where a kill leaves them.)
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_write(Path(path)) as new, new.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # of closing the archive, where the disk was full before that
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """GtaError: it is damaged, or of another run."""
        with reading(Path(path), "a checkpoint", "Train again with --overwrite, or put back a copy of it."):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():  # against the checksums that torch writes and does not read
                    raise ValueError(f"{damaged} is damaged")
            found = dict(torch.load(path, map_location="cpu", weights_only=True))
            of = found["callbacks"]["Recorder"]["run_id"]
        if of != self.folder.id:
            raise GtaError(f"{path} is of another run ({of}, not {self.folder.id}): put the right one back.")
        return found
