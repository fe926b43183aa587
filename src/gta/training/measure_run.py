"""Measure a finished run's model again, on a split of its own data or of other data with the same classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gta.data.datasets import parts
from gta.data.reading import read_photos, read_split
from gta.data.sample import Sample
from gta.errors import GtaError
from gta.sources.info import source_info
from gta.sources.loading import load_source
from gta.training.calibration import calibration_error
from gta.training.evaluate import measure
from gta.training.options import TrainOptions
from gta.training.run_folder import read_options
from gta.training.trained import Trained


def evaluate_run(folder: Path, data: str | None = None, split: str = "test") -> dict[str, Any]:
    """Measure a run's model on a split of its own data, or of another folder with the same classes.

    Returns:
        run, data, split, images, classes, what `measure` gives, and ece, of the calibrated probabilities.

    Raises:
        GtaError: no finished run, no such split, or other classes than the model's.
    """
    options = read_options(folder)
    trained = Trained.load(folder)
    root = data or options.data
    samples = run_samples(root, split, trained.classes, options, own=data is None)
    if trained.closer is not None:
        samples = trained.closer.of_samples(samples)
    source = load_source(options.source, options.image_size, heads=options.heads)
    info = source_info(source)
    logits: list[Tensor] = []
    measures = measure(
        trained.model, source.to(trained.device), info, samples, watch=lambda batch: logits.append(batch.logits)
    )
    labels = torch.tensor([sample.label for sample in samples])
    error = calibration_error(torch.cat(logits), labels, trained.temperature)
    return {
        "run": str(folder), "data": root, "split": split, "images": len(samples), "classes": len(trained.classes),
        **measures, "ece": error,
    }  # fmt: skip


def run_samples(root: str, split: str, classes: list[str], options: TrainOptions, *, own: bool) -> Sequence[Sample]:
    """The images of a split of a run's `own` data, or of other data with the same classes.

    Raises:
        GtaError: no such split, or other classes.
    """
    folds = options.cross_validate if own else 0
    whole = split == "test" or (split == "val" and not folds)
    if whole and not parts(root)[0] and (Path(root) / split).is_dir():
        return read_split(root, split, classes, skip_unreadable=options.skip_unreadable)
    # train is what the run's fraction and seed (or its list) choose; val may have to be held out of train
    photos = read_photos(
        root,
        fraction=options.fraction,
        seed=options.seed,
        skip_unreadable=options.skip_unreadable,
        subset_list=options.subset_list if own else None,
        val_fraction=options.val_fraction,
        folds=folds,
        fold=options.fold if own else None,
    )
    if list(photos.classes) != classes:
        differing = sorted(set(photos.classes) ^ set(classes))
        raise GtaError(f"{root} has other classes than the model was trained on: {', '.join(differing[:8])}.")
    return photos.split(split)
