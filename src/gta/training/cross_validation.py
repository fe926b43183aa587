"""Cross-validation: an estimate from all images, where a validation split of a few would say next to nothing.

The run's folder holds folds/0, folds/1, …: a run each, trained without that fold and judged on it, its weights deleted
afterwards. The run's own model is trained on all folds; what the others said of images that they had not seen is its
estimate (a little pessimistic, for it had more images), and what its temperature is fitted on.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import torch
from torch import Tensor

from gta.tables import read_csv
from gta.training.accuracy import accuracies
from gta.training.evidence import PREDICTIONS
from gta.training.options import TrainOptions
from gta.training.run_folder import CHECKPOINT, WEIGHTS

FOLDS = "folds"
MEASURES = (
    "cv_images",
    "cv_top1",
    "cv_top1_low",
    "cv_top1_high",
    "cv_top1_spread",
    "cv_balanced_accuracy",
    "cv_macro_f1",
)


def train_folds(options: TrainOptions, train: Callable[..., dict[str, Any] | None]) -> None:
    """Train without each fold, one after the other on one device; folds that are done stay as they are.

    Args:
        options: of the run; `out` is its folder.
        train: `gta.training.fit.train`.
    """
    for fold in range(options.cross_validate):
        out = Path(options.out) / FOLDS / str(fold)
        results = train(replace(options, fold=fold, out=str(out), devices=1, keep_attention=0), resume=True, test=False)
        for name in (CHECKPOINT, WEIGHTS):
            (out / name).unlink(missing_ok=True)
        if results is not None:
            right = f"{results['val_top1']:.1f} % of {results['val_images']} images right"
            print(f"fold {fold + 1} of {options.cross_validate}: {right}", file=sys.stderr)


def out_of_fold(out: Path, classes: Sequence[str]) -> tuple[Tensor, Tensor, dict[str, float]]:
    """What the models of the folds say of the images that they were not trained on.

    Args:
        out: run folder, its folds done.
        classes: names in label order.

    Returns:
        Logits (n, classes) float64, up to a constant each; labels (n,); and `MEASURES` of them, in percent: of all
        images together with the 95 % interval of top-1 (Wilson 1927) and its standard deviation over folds.
    """
    logits, labels, tops = [], [], []
    for fold in sorted((out / FOLDS).iterdir(), key=lambda path: int(path.name)):
        rows = read_csv(fold / PREDICTIONS)
        values = torch.tensor([[float(row[f"p:{name}"]) for name in classes] for row in rows], dtype=torch.double)
        logits.append(values.clamp(min=torch.finfo(values.dtype).tiny).log())
        labels.append(torch.tensor([classes.index(row["label"]) for row in rows]))
        tops.append(accuracies(labels[-1], logits[-1].argmax(-1))["top1"])
    said, truth = torch.cat(logits), torch.cat(labels)
    guesses = said.argmax(-1)
    found = accuracies(truth, guesses)
    from scipy.stats import binomtest  # a quarter of a second, which no training waits for

    interval = binomtest(int((guesses == truth).sum()), len(truth)).proportion_ci(0.95, method="wilson")
    estimate = (
        len(truth), found["top1"], 100 * float(interval.low), 100 * float(interval.high), stdev(tops),
        found["balanced_accuracy"], found["macro_f1"],
    )  # fmt: skip
    return said, truth, dict(zip(MEASURES, estimate, strict=True))
