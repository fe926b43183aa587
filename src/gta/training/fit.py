"""One training run, from options to a complete run folder."""

import sys
import time
import warnings
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from gta.acceleration.attention import QuickAttention
from gta.attention.maps import logits_and_rows
from gta.data.datasets import resolved
from gta.data.loading import EpochSampler, class_weights, loader, workers_for
from gta.data.reading import Photos, read_photos
from gta.data.transforms import TestViews, TrainViews, normalised
from gta.devices import device_name
from gta.files import write_json, write_text
from gta.methods.base import Batches
from gta.methods.compose import ComposedMethod, complete_settings, make_methods
from gta.sources.info import SourceInfo, digest, source_info
from gta.sources.loading import new_target
from gta.training.auto import AUTO, decide
from gta.training.batch import Batch
from gta.training.cross_validation import train_folds
from gta.training.evidence import KeptAttention
from gta.training.finite import Diverged, check_finite, check_weights
from gta.training.look import Look, looked_at
from gta.training.model_card import CARD, model_card
from gta.training.module import FineTuning
from gta.training.options import TrainOptions
from gta.training.recorder import Checkpoints, Recorder
from gta.training.results import evaluate, git_state, versions
from gta.training.run_folder import (
    CHECKPOINT,
    DIVERGED,
    RunFolder,
    check_same,
    is_complete,
    read_options,
    read_results,
)
from gta.training.source import load_for_training
from gta.training.stored_rows import StoredRows, check_reuse, stored_rows
from gta.training.trainer import described, is_first_process, make_trainer


def train(
    options: TrainOptions,
    *,
    resume: bool = False,
    overwrite: bool = False,
    keep_finite: bool = False,
    test: bool = True,
) -> dict[str, Any] | None:
    """Train, evaluate once on test, and write the run folder.

    Args:
        options: of the run.
        resume: go on with an unfinished run in `options.out`; a complete one is returned as it is.
        overwrite: replace a run in `options.out`, once the new one has a checkpoint.
        keep_finite: where the training diverges, end with the weights of its last finite epoch instead of an error.
        test: False leaves the test images alone, for runs that only choose settings; their measures are None.

    Returns:
        The content of results.json; None on all but the first of several processes.

    Raises:
        GtaError: bad input; nothing is written then, and what was there stays.
        Diverged: a loss, weights or measures that are not finite; the folder says so.
        KeyboardInterrupt: the user stopped it; the folder can be resumed.
    """
    began = time.perf_counter()
    options = replace(options, settings=complete_settings(options.method, options.settings))
    check_reuse(options, make_methods(options))
    folder = RunFolder(Path(options.out), resume=resume, overwrite=overwrite)
    with folder.held() if is_first_process() else nullcontext():
        return _train(options, folder, keep_finite, test, began)


def _train(
    options: TrainOptions, folder: RunFolder, keep_finite: bool, test: bool, began: float
) -> dict[str, Any] | None:
    first = is_first_process()
    folds = options.cross_validate > 0 and options.fold is None
    if folder.begun:
        before = read_options(folder.out)
        check_same(before, options)
        if is_complete(folder.out) and resolved(before.data) == resolved(options.data):
            return read_results(folder.out) if first else None
        if (folder.out / DIVERGED).is_file() and not keep_finite:
            raise Diverged((folder.out / DIVERGED).read_text(encoding="utf-8", errors="replace").strip())
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
    notes = [*info.notes, *photos.notes]
    trained_on, judged_on = (photos.digests[split] for split in ("train", "val"))
    if photos.notes and first:  # the source's were said when it was loaded
        print("\n".join(f"warning: {note}" for note in photos.notes), file=sys.stderr)
    folder.identify(options, {"training images": trained_on, "validation images": judged_on, "source": digest(source)})
    if folder.begun and is_complete(folder.out):
        return read_results(folder.out) if first else None
    given, look, found = options, None, None
    reasons: list[str] = []
    if options.method == AUTO:
        look = Look.of(options.look_source or options.source, info.image_size, options.heads)
        decision = decide(options, photos, source, look)
        options = decision.applied(options)
        reasons += decision.reasons
    # Every method's run ends with attention measures: a source that has no rows to read is refused here already.
    logits_and_rows(source, torch.zeros(1, 3, info.image_size, info.image_size))
    compose = partial(_composed, options, photos)
    if options.batch_size == "auto":
        found = Batch.of(folder.path if folder.begun else None, options, source, compose, len(photos.train))
        options = found.applied(options)
        reasons.append(found.reason)
    torch.manual_seed(options.seed)
    method = compose(source)  # refuses what does not fit
    recorder = Recorder(folder)
    changing = bool(method.restarts or list(method.own.parameters()))
    trainer = make_trainer(options, [recorder], Checkpoints(folder), changing=changing)
    workers = options.workers if options.workers >= 0 else workers_for(trainer.accelerator.name(), trainer.world_size)
    edits = None
    if method.looks:
        look = look or Look.of(options.look_source or options.source, info.image_size, options.heads)
        photos, edits = looked_at(photos, look, method, workers, test)
    if options.keep_attention:  # of what is shown of the images; before the recorder, whose checkpoint ends an epoch
        kept = KeptAttention(folder, photos, info, options.keep_attention)
        trainer.callbacks.insert(0, kept)  # type: ignore[attr-defined]
    views = TrainViews(
        photos.train, info.image_size, options.seed, options.views if options.reuse else 0, options.views_set, edits
    )
    stored = None
    if options.reuse:
        method.to(trainer.strategy.root_device)
        with trainer.precision_plugin.forward_context():
            stored = stored_rows(options, method.methods, photos, info, views, method, workers)
        views.store = None if stored is None else stored.store
    if first:
        print(*reasons, described(trainer, workers), sep="\n", file=sys.stderr)
        folder.open(given)
        if found is not None:
            found.save(folder.path)
            given = replace(given, batch_size=found.batch_size, lr=options.lr)  # the folds' as well
        if folds:
            train_folds(replace(given, out=str(folder.path)), train)

    diverged = _fit(trainer, method, photos, views, info, options, workers, stored, folder, recorder, keep_finite)
    if not trainer.is_global_zero:
        return None
    method.finish()
    check_weights(method.model)
    if look is not None and method.crops:
        look.save(folder.path, method.crops[0])
    device = trainer.strategy.root_device  # after fit, Lightning has moved the model to the CPU
    models = method.model.to(device), source.to(device)
    sizes = Counter(sample.label for sample in photos.train).values()
    results = {
        "run_id": folder.id,
        "method": given.method,
        "composed": options.method,  # what auto chose
        "reasons": "; ".join(reasons) or None,
        **method.describe(),
        "diverged": diverged,
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
        "devices": trainer.world_size,
        "workers": workers,
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
        "warnings": "; ".join(notes) or None,
        "classes": len(photos.classes),
        "smallest_class": min(sizes),
        "largest_class": max(sizes),
        **recorder.last_epoch(),
        **evaluate(*models, info, photos, workers, folder, test=test, explored=options.keep_attention, folds=folds),
        **recorder.speed(),
        "wall_seconds": round(max(time.perf_counter() - began, recorder.seconds), 2),
        "device": device_name(device),
        "data_digest": photos.digests["train"],
        "val_digest": photos.digests["val"],
        "test_digest": photos.digests["test"] if test and photos.test else None,
        "git": git_state(),
        "versions": versions(),
    }
    check_finite("the measures are", results)
    if photos.skipped:
        write_json(folder.path / "skipped.json", photos.skipped)
    if test:
        write_text(folder.path / CARD, model_card(options, results))
    folder.complete(results)
    return results


def _composed(options: TrainOptions, photos: Photos, source: Any) -> ComposedMethod:
    """A new target and the methods, around a source."""
    return ComposedMethod(
        new_target(source, len(photos.classes)),
        source,
        make_methods(options),
        options.weight_schedule,
        options.weight_share,
        QuickAttention(),
        class_weights([s.label for s in photos.train]) if options.balance == "loss" else None,
    )


def _share(options: TrainOptions, trainer: L.Trainer) -> int:
    """Images per step and device."""
    return max(1, options.batch // trainer.world_size)


def _fit(
    trainer: L.Trainer,
    method: ComposedMethod,
    photos: Photos,
    views: TrainViews,
    info: SourceInfo,
    options: TrainOptions,
    workers: int,
    stored: StoredRows | None,
    folder: RunFolder,
    recorder: Recorder,
    keep_finite: bool,
) -> str | None:
    """Train; what is said of a divergence whose last finite epoch is kept."""
    labels = [sample.label for sample in photos.train] if options.balance == "sampler" else None
    sampler = EpochSampler(len(photos.train), options.seed, trainer.global_rank, trainer.world_size, labels)
    batch = _share(options, trainer)
    # A last batch of a few images would take a full step on a noisy gradient; it is left out where it is small.
    training = loader(views, batch, workers, sampler=sampler, drop_last=len(sampler) >= batch)
    unmasked = [replace(sample, mask=None) for sample in photos.val]
    validation = loader(TestViews(unmasked, info.image_size, info.mean, info.std), options.batch, workers)
    steps = len(training) * options.epochs
    normalise = partial(normalised, mean=info.mean, std=info.std)
    images = _training_images(photos, info, options, workers)
    module = FineTuning(method, options, steps, images, normalise, None if stored is None else stored.replay)
    checkpoint = folder.path / CHECKPOINT
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*(LeafSpec|does not have many workers|in eval mode|lr_scheduler.step|Total length of).*"
        )
        try:
            resumed = str(checkpoint) if folder.begun and checkpoint.is_file() else None
            trainer.fit(module, training, validation, ckpt_path=resumed, weights_only=True)
        except SystemExit as stop:  # how Lightning ends after Ctrl-C
            raise KeyboardInterrupt from stop
        except Diverged as error:
            checkpoint = folder.path / CHECKPOINT
            if not (keep_finite and checkpoint.is_file()):
                raise
            state = Checkpoints(folder).load_checkpoint(checkpoint)
            module.load_state_dict(state["state_dict"])
            recorder.load_state_dict(state["callbacks"]["Recorder"])
            return str(error)
    return None


def _training_images(photos: Photos, info: SourceInfo, options: TrainOptions, workers: int) -> Batches:
    unmasked = [replace(sample, mask=None) for sample in photos.train]
    views = TestViews(unmasked, info.image_size, info.mean, info.std)
    return lambda: ((x, y) for x, y, _ in loader(views, options.batch, workers))
