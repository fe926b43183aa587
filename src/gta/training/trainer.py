"""Lightning's trainer, as every run has it."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from gta.devices import default_device, device_name, has_fast_bf16
from gta.errors import GtaError
from gta.training.options import TrainOptions


def make_trainer(options: TrainOptions, callbacks: Sequence[L.Callback], checkpoints: Any, changing: bool) -> L.Trainer:
    """`changing`: other parameters train at some steps than at others, which several processes must be told.

    `checkpoints`: how they are written and read.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    there = torch.cuda.device_count() or os.cpu_count() or 1
    if options.devices > there:
        raise GtaError(f"--devices {options.devices} cannot be used: this machine has {there}.")
    several = (options.devices or torch.cuda.device_count()) > 1
    return L.Trainer(
        accelerator="auto",
        strategy="ddp_find_unused_parameters_true" if changing and several else "auto",
        devices=options.devices or "auto",
        precision=resolve_precision(options.precision),  # type: ignore[arg-type]
        max_epochs=options.epochs,
        gradient_clip_val=options.clip or None,
        check_val_every_n_epoch=min(options.val_every, options.epochs),
        callbacks=[*callbacks, *_progress()],
        plugins=[checkpoints],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )


def described(trainer: L.Trainer, workers: int) -> str:
    """On what a run trains, for those who left that to it: a sentence."""
    several = f"{trainer.world_size} × " if trainer.world_size > 1 else ""
    precision = {"32-true": "float32", "bf16-mixed": "bf16", "16-mixed": "float16"}[str(trainer.precision)]
    loading = f"{workers} processes load images for each device" if workers else "the same process loads images"
    return f"trains on {several}{device_name(trainer.strategy.root_device)} in {precision}; {loading}"


def resolve_precision(precision: str) -> str:
    """Lightning's word for it; "auto" is bf16 autocast where the device has instructions for it."""
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(default_device()) else "32"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[precision]


def _progress() -> list[L.Callback]:
    if not sys.stdout.isatty():
        return []
    from lightning.pytorch.callbacks import RichProgressBar

    return [RichProgressBar()]


def is_first_process() -> bool:
    """False in the processes that Lightning or torchrun started beside the first."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
