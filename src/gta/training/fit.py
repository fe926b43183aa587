"""One training run, from options to a complete run folder."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from gta.acceleration.source_precision import has_fast_bf16
from gta.attention.maps import logits_and_rows
from gta.attention.plots import draw_maps
from gta.data.datasets import resolved
from gta.data.loading import EpochSampler, loader, workers_for
from gta.data.reading import Photos, read_photos
from gta.data.transforms import TestViews, TrainViews, normalised
from gta.errors import GtaError
from gta.files import write_json
from gta.methods import parts_of
from gta.methods.base import Batches, adds
from gta.methods.compose import Recipe, complete_settings, make_parts
from gta.sources.loading import SourceInfo, load_source, new_target, source_info
from gta.training.evaluate import measure, validate
from gta.training.module import FineTuning, Recorder
from gta.training.options import TrainOptions
from gta.training.run_folder import (
    CHECKPOINT,
    CONFIG,
    RESULTS,
    check_out,
    is_complete,
    open_folder,
    read_options,
    save_weights,
)
from gta.training.stored_rows import check_reuse, stored_rows


def train(
    options: TrainOptions, *, resume: bool = False, overwrite: bool = False, test: bool = True
) -> dict[str, Any] | None:
    """Train, evaluate once on test, and write the run folder.

    Args:
        options: of the run.
        resume: go on with an unfinished run in `options.out`; a complete one is returned as it is.
        overwrite: replace a run in `options.out`.
        test: False leaves the test images alone, for runs that only choose settings; their measures are None.

    Returns:
        The content of results.json; None on all but the first of several processes.

    Raises:
        GtaError: bad input; nothing is written then.
        KeyboardInterrupt: the user stopped it; the folder can be resumed.
    """
    began = time.perf_counter()
    options = replace(options, settings=complete_settings(options.method, options.settings))
    parts = make_parts(options)
    check_reuse(options, parts)
    out = Path(options.out)
    first = _is_first_process()
    if first:
        check_out(out, resume=resume, overwrite=overwrite)
    if resume and (out / CONFIG).is_file():
        _check_same(read_options(out), options)
        if is_complete(out):
            return read_results(out) if first else None
    photos = read_photos(
        options.data,
        fraction=options.fraction,
        seed=options.seed,
        skip_unreadable=options.skip_unreadable,
        subset_list=options.subset_list,
        download=options.download,
    )
    source = load_for_training(options.source, options.image_size, options.heads)
    info = source_info(source)
    # Every method's run ends with attention measures: a source that has no rows to read is refused here already.
    logits_and_rows(source, torch.zeros(1, 3, info.image_size, info.image_size))
    torch.manual_seed(options.seed)
    target = new_target(source, len(photos.classes))
    method = Recipe(target, source, parts, options.weight_schedule, options.weight_share)  # refuses what does not fit
    recorder = Recorder(out, photos.digests["train"])
    changing = bool(method.restarts or list(method.own.parameters()))
    trainer = make_trainer(options, [recorder], changing=changing)
    workers = options.workers if options.workers >= 0 else workers_for(trainer.accelerator.name())
    views = TrainViews(
        photos.train, info.image_size, options.seed, options.views if options.reuse else 0, options.views_set
    )
    if options.reuse:
        method.to(trainer.strategy.root_device)
        with trainer.precision_plugin.forward_context():
            views.store = stored_rows(options, parts, photos, info, views, method, workers)
    if first:
        open_folder(out, options, resume=resume, overwrite=overwrite)

    _fit(trainer, method, photos, views, info, options, workers)
    if not trainer.is_global_zero:
        return None
    method.finish()
    device = trainer.strategy.root_device  # after fit, Lightning has moved the model to the CPU
    tested = photos if test else replace(photos, test=())
    results = _evaluate(target.to(device), source.to(device), info, tested, workers, out)
    spent = sum(e["seconds"] for e in recorder.epochs)
    last = recorder.epochs[-1]
    guided = "gta" in parts_of(options.method)
    results = {
        "method": options.method,
        **{f"{part}.{key}": value for part, own in options.settings.items() for key, value in own.items()},
        "weight": options.weight if guided else None,
        "final_weight": recorder.rows[-1].get("weight"),
        "weight_schedule": options.weight_schedule if any(map(adds, parts)) else None,
        "layers": _as_text(options.layers) if guided else None,
        "guide": options.guide if guided else None,
        "rows": options.rows if guided else None,
        "distance": options.distance if guided else None,
        "every": options.every if guided else None,
        "views": options.views if options.reuse else None,
        "views_seed": options.views_set if options.reuse else None,
        "fraction": options.fraction,
        "subset_list": options.subset_list,
        "seed": options.seed,
        "epochs": options.epochs,
        "batch_size": _share(options, trainer) * trainer.world_size,
        "image_size": info.image_size,
        "lr": options.lr,
        "head_lr_scale": options.head_lr_scale,
        "layer_decay": options.layer_decay,
        "weight_decay": options.weight_decay,
        "precision": str(trainer.precision),
        "source": options.source,
        "source_coverage": info.coverage,
        "train_images": len(photos.train),
        "val_images": len(photos.val),
        "test_images": len(tested.test),
        "skipped_images": len(photos.skipped),
        "classes": len(photos.classes),
        "train_loss": last["loss"],
        "train_top1": last["top1"],
        "penalty": last["penalty"],
        **results,
        "train_seconds": round(spent, 2),
        "wall_seconds": round(max(time.perf_counter() - began, spent), 2),
        "data_wait": round(sum(e["waiting"] for e in recorder.epochs) / spent, 4),
        "images_per_second": round(sum(e["images"] for e in recorder.epochs) / spent, 2),
        "device": _device_name(device),
        "data_digest": photos.digests["train"],
        "val_digest": photos.digests["val"],
        "test_digest": photos.digests["test"] if tested.test else None,
        "git": _git_state(),
        "versions": _versions(),
    }
    if photos.skipped:
        write_json(out / "skipped.json", photos.skipped)
    write_json(out / RESULTS, results)  # last: it makes the folder complete
    return results


def load_for_training(spec: str, image_size: int, heads: int | None) -> nn.Module:
    """`load_source`, of what `gta train` can build targets from: timm's models.

    Raises:
        GtaError: as `load_source`, or a model of transformers.
    """
    source = load_source(spec, image_size, heads=heads)
    if not hasattr(source, "get_classifier"):
        raise GtaError(
            f"--source {spec} is transformers' {type(source).__name__}, and gta train builds and saves models of timm. "
            "Guide it in transformers' own Trainer (examples/transformers_trainer.py), or give the same weights as "
            "timm:NAME or as their authors' checkpoint file."
        )
    return source


def _is_first_process() -> bool:
    """False in the processes that Lightning or torchrun started beside the first."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def read_results(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / RESULTS).read_text(encoding="utf-8")))


def make_trainer(options: TrainOptions, callbacks: Sequence[L.Callback], changing: bool) -> L.Trainer:
    """`changing`: other parameters train at some steps than at others, which several processes must be told."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
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
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )


def _share(options: TrainOptions, trainer: L.Trainer) -> int:
    """Images per step and device."""
    return max(1, options.batch_size // trainer.world_size)


def _fit(
    trainer: L.Trainer,
    method: Recipe,
    photos: Photos,
    views: TrainViews,
    info: SourceInfo,
    options: TrainOptions,
    workers: int,
) -> None:
    sampler = EpochSampler(len(photos.train), options.seed, trainer.global_rank, trainer.world_size)
    batch = _share(options, trainer)
    # A last batch of a few images would take a full step on a noisy gradient; it is left out where it is small.
    training = loader(views, batch, workers, sampler=sampler, drop_last=len(sampler) >= batch)
    unmasked = [replace(sample, mask=None) for sample in photos.val]
    validation = loader(TestViews(unmasked, info.image_size, info.mean, info.std), options.batch_size, workers)
    steps = len(training) * options.epochs
    normalise = partial(normalised, mean=info.mean, std=info.std)
    module = FineTuning(method, options, steps, _training_images(photos, info, options, workers), normalise)
    checkpoint = Path(options.out) / CHECKPOINT
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*(LeafSpec|does not have many workers|in eval mode|lr_scheduler.step|Total length of).*"
        )
        try:
            resumed = str(checkpoint) if checkpoint.is_file() else None
            trainer.fit(module, training, validation, ckpt_path=resumed, weights_only=True)
        except SystemExit as stop:  # how Lightning ends after Ctrl-C
            raise KeyboardInterrupt from stop


def _training_images(photos: Photos, info: SourceInfo, options: TrainOptions, workers: int) -> Batches:
    unmasked = [replace(sample, mask=None) for sample in photos.train]
    views = TestViews(unmasked, info.image_size, info.mean, info.std)
    return lambda: ((x, y) for x, y, _ in loader(views, options.batch_size, workers))


def _progress() -> list[L.Callback]:
    if not sys.stdout.isatty():
        return []
    from lightning.pytorch.callbacks import RichProgressBar

    return [RichProgressBar()]


def _evaluate(
    target: nn.Module, source: nn.Module, info: SourceInfo, photos: Photos, workers: int, out: Path
) -> dict[str, Any]:
    save_weights(
        out,
        target,
        {
            "format": "pt",
            "architecture": info.architecture,
            "model_args": {**info.model_args, "num_classes": len(photos.classes)},
            "mean": ",".join(map(str, info.mean)),
            "std": ",".join(map(str, info.std)),
            "classes": list(photos.classes),
        },
    )
    val_top1, val_loss = validate(target, info, photos.val, workers=workers) if photos.val else (None, None)
    results: dict[str, Any] = {
        "val_top1": val_top1,
        "val_loss": val_loss,
        "test_top1": None,
        **dict.fromkeys(("object_mass", "source_object_mass", "jaccard", "source_jaccard", "drift")),
    }
    if photos.test:
        tested = measure(target, source, info, photos.test, workers=workers)
        results |= {"test_top1": tested.pop("top1"), **tested}
        draw_maps(source, {"fine-tuned": target}, info, photos.test, photos.classes, out / "maps" / "attention.png")
    return results


def resolve_precision(precision: str) -> str:
    """Lightning's word for it; "auto" is bf16 autocast where the device has instructions for it."""
    if precision == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision = "bf16" if has_fast_bf16(device) else "32"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[precision]


def _check_same(before: TrainOptions, now: TrainOptions) -> None:
    for field in fields(TrainOptions):
        old, new = getattr(before, field.name), getattr(now, field.name)
        same = (
            old == new
            or (field.name == "data" and resolved(old) == resolved(new))
            or (field.name in ("source", "subset_list") and old and new and Path(old).resolve() == Path(new).resolve())
        )
        if not same and field.name not in ("out", "workers", "devices", "download", "reuse_dir"):
            raise GtaError(
                f"--resume goes on with {field.name}={old}, but {field.name}={new} was given. Leave it out, or "
                "start another run with another --out."
            )


def _as_text(layers: str | list[int]) -> str:
    return layers if isinstance(layers, str) else ",".join(map(str, layers))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _versions() -> str:
    packages = ("gta-vit", "torch", "torchvision", "timm", "lightning")
    return ", ".join([f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)])


def _git_state() -> str | None:
    """Commit of the checkout the command was run in, with a + where files were changed; None outside one."""
    try:
        ask = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
