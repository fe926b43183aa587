"""One training run, from options to a complete run folder."""

import sys
import time
import warnings
from collections import Counter
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from gta.acceleration.attention import QuickAttention
from gta.attention.maps import logits_and_rows
from gta.data.datasets import resolved
from gta.data.loading import EpochSampler, class_weights, loader, workers_for
from gta.data.reading import Photos, read_photos
from gta.data.transforms import TestViews, TrainViews, normalised
from gta.devices import device_name
from gta.errors import GtaError
from gta.files import write_json, write_text
from gta.methods.base import Batches
from gta.methods.compose import ComposedMethod, complete_settings, make_methods
from gta.sources.info import SourceInfo, source_info
from gta.sources.loading import load_source, new_target
from gta.training.auto import AUTO, decide
from gta.training.cross_validation import train_folds
from gta.training.evidence import KeptAttention
from gta.training.look import Look, looked_at
from gta.training.model_card import CARD, model_card
from gta.training.module import FineTuning
from gta.training.options import TrainOptions
from gta.training.recorder import Recorder
from gta.training.results import evaluate, git_state, read_results, versions
from gta.training.run_folder import CHECKPOINT, CONFIG, RESULTS, check_out, is_complete, open_folder, read_options
from gta.training.stored_rows import StoredRows, check_reuse, stored_rows
from gta.training.trainer import is_first_process, make_trainer


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
    given = options = replace(options, settings=complete_settings(options.method, options.settings))
    methods = make_methods(options)
    check_reuse(options, methods)
    out = Path(options.out)
    first = is_first_process()
    folds = options.cross_validate > 0 and options.fold is None
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
        val_fraction=options.val_fraction,
        folds=options.cross_validate,
        fold=options.fold,
    )
    source = load_for_training(options.source, options.image_size, options.heads)
    info = source_info(source)
    look = decision = None
    if options.method == AUTO:
        look = Look.of(options.look_source or options.source, info.image_size, options.heads)
        decision = decide(options, photos, source, look)
        print("\n".join(decision.reasons), file=sys.stderr)
        options = decision.applied(options)
        methods = make_methods(options)
    # Every method's run ends with attention measures: a source that has no rows to read is refused here already.
    logits_and_rows(source, torch.zeros(1, 3, info.image_size, info.image_size))
    torch.manual_seed(options.seed)
    target = new_target(source, len(photos.classes))
    method = ComposedMethod(  # refuses what does not fit
        target,
        source,
        methods,
        options.weight_schedule,
        options.weight_share,
        QuickAttention(),
        class_weights([s.label for s in photos.train]) if options.balance == "loss" else None,
    )
    recorder = Recorder(out, photos.digests["train"])
    changing = bool(method.restarts or list(method.own.parameters()))
    kept = [KeptAttention(out, photos, info, options.keep_attention)] if options.keep_attention else []
    trainer = make_trainer(options, [*kept, recorder], changing=changing)
    workers = options.workers if options.workers >= 0 else workers_for(trainer.accelerator.name())
    edits = None
    if method.looks:
        look = look or Look.of(options.look_source or options.source, info.image_size, options.heads)
        photos, edits = looked_at(photos, look, method, workers)
    views = TrainViews(
        photos.train, info.image_size, options.seed, options.views if options.reuse else 0, options.views_set, edits
    )
    stored = None
    if options.reuse:
        method.to(trainer.strategy.root_device)
        with trainer.precision_plugin.forward_context():
            stored = stored_rows(options, methods, photos, info, views, method, workers)
        views.store = None if stored is None else stored.store
    if first:
        open_folder(out, given, resume=resume, overwrite=overwrite)
        if folds:
            train_folds(given, train)

    _fit(trainer, method, photos, views, info, options, workers, stored)
    if not trainer.is_global_zero:
        return None
    method.finish()
    if look is not None and method.crops:
        look.save(out, method.crops[0])
    device = trainer.strategy.root_device  # after fit, Lightning has moved the model to the CPU
    sizes = Counter(sample.label for sample in photos.train).values()
    results = {
        "method": given.method,
        "composed": options.method,  # what auto chose
        "reasons": None if decision is None else "; ".join(decision.reasons),
        **method.describe(),
        "final_weight": recorder.rows[-1].get("weight"),
        "views": options.views if options.reuse else None,
        "views_seed": options.views_set if options.reuse else None,
        "fraction": options.fraction,
        "subset_list": options.subset_list,
        "seed": options.seed,
        "epochs": options.epochs,
        "cross_validate": options.cross_validate,
        "fold": options.fold,
        "balance": options.balance,
        "batch_size": _share(options, trainer) * trainer.world_size,
        "image_size": info.image_size,
        "lr": options.rates[0],
        "head_lr_scale": options.head_lr_scale,
        "layer_decay": options.rates[1],
        "weight_decay": options.weight_decay,
        "precision": str(trainer.precision),
        "attention_kernel": method.attention.names(),
        "source": options.source,
        "source_coverage": info.coverage,
        "train_images": len(photos.train),
        "val_images": len(photos.val),
        "test_images": len(photos.test) if test else 0,
        "skipped_images": len(photos.skipped),
        "classes": len(photos.classes),
        "smallest_class": min(sizes),
        "largest_class": max(sizes),
        **recorder.last_epoch(),
        **evaluate(
            target.to(device),
            source.to(device),
            info,
            photos,
            workers,
            out,
            test=test,
            explored=options.keep_attention,
            folds=folds,
        ),
        **recorder.speed(),
        "wall_seconds": round(max(time.perf_counter() - began, recorder.seconds), 2),
        "device": device_name(device),
        "data_digest": photos.digests["train"],
        "val_digest": photos.digests["val"],
        "test_digest": photos.digests["test"] if test and photos.test else None,
        "git": git_state(),
        "versions": versions(),
    }
    if photos.skipped:
        write_json(out / "skipped.json", photos.skipped)
    if test:
        write_text(out / CARD, model_card(options, results))
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


def _share(options: TrainOptions, trainer: L.Trainer) -> int:
    """Images per step and device."""
    return max(1, options.batch_size // trainer.world_size)


def _fit(
    trainer: L.Trainer,
    method: ComposedMethod,
    photos: Photos,
    views: TrainViews,
    info: SourceInfo,
    options: TrainOptions,
    workers: int,
    stored: StoredRows | None,
) -> None:
    labels = [sample.label for sample in photos.train] if options.balance == "sampler" else None
    sampler = EpochSampler(len(photos.train), options.seed, trainer.global_rank, trainer.world_size, labels)
    batch = _share(options, trainer)
    # A last batch of a few images would take a full step on a noisy gradient; it is left out where it is small.
    training = loader(views, batch, workers, sampler=sampler, drop_last=len(sampler) >= batch)
    unmasked = [replace(sample, mask=None) for sample in photos.val]
    validation = loader(TestViews(unmasked, info.image_size, info.mean, info.std), options.batch_size, workers)
    steps = len(training) * options.epochs
    normalise = partial(normalised, mean=info.mean, std=info.std)
    images = _training_images(photos, info, options, workers)
    module = FineTuning(method, options, steps, images, normalise, None if stored is None else stored.replay)
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
