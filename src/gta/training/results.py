"""What a trained run comes to: its model on validation and test, and the content of results.json."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from gta.data.reading import Photos
from gta.sources.info import SourceInfo
from gta.training.calibration import calibration_error, fit_temperature
from gta.training.cross_validation import MEASURES, out_of_fold
from gta.training.evaluate import classify, measure, of_classes
from gta.training.evidence import Watch, shown_split, write_evidence, write_predictions
from gta.training.run_folder import RunFolder, save_weights

OF_CLASSES = ("top1", "balanced_accuracy", "macro_f1", "loss")
OF_MASKS = ("object_mass", "source_object_mass", "jaccard", "source_jaccard", "drift")


def evaluate(
    target: nn.Module,
    source: nn.Module,
    info: SourceInfo,
    photos: Photos,
    workers: int,
    folder: RunFolder,
    *,
    test: bool = True,
    explored: int = 0,
    folds: bool = False,
) -> dict[str, Any]:
    """Save the model, measure it on val and test, and leave what others want to know of its images.

    Args:
        target, source: on one device.
        info: image size and normalisation.
        photos: of the run.
        workers: processes that load images.
        folder: of the run.
        test: False leaves test alone, and of val everything but the predictions: such a run only chooses settings, or
            is a fold.
        explored: see `write_evidence`.
        folds: of cross-validation, there are in the folder.
    """
    of_splits = [f"{split}_{name}" for split in ("val", "test") for name in OF_CLASSES]
    results: dict[str, Any] = dict.fromkeys((*of_splits, *OF_MASKS, *MEASURES))
    watch = None
    logits: dict[str, Tensor] = {}
    for split in ("val", "test") if test else ("val",):
        if not (samples := getattr(photos, split)):
            continue
        if test and split == shown_split(photos):
            watch = Watch(target, source)
            measured = measure(target, source, info, samples, workers=workers, watch=watch)
            logits[split] = watch["logits"]
            results |= {name: measured[name] for name in OF_MASKS} if split == "test" else {}
        else:
            logits[split] = classify(target, info, samples, workers=workers)
            measured = of_classes(logits[split], samples)
        results |= {f"{split}_{name}": measured[name] for name in OF_CLASSES}
    seen = {
        split: (said, torch.tensor([sample.label for sample in photos.split(split)])) for split, said in logits.items()
    }
    if folds:
        said, labels, estimate = out_of_fold(folder.path, photos.classes)
        seen["cv"] = said, labels
        results |= estimate
    temperature, calibration = calibrate(seen)
    results |= calibration
    save_weights(
        folder.path,
        target,
        {
            "format": "pt",
            "architecture": info.architecture,
            "model_args": {**info.model_args, "num_classes": len(photos.classes)},
            "mean": ",".join(map(str, info.mean)),
            "std": ",".join(map(str, info.std)),
            "classes": list(photos.classes),
            "run_id": folder.id,
            "temperature": temperature,
        },
    )
    if logits:
        write_predictions(folder.path, photos, logits)
    if watch is not None:
        write_evidence(folder.path, target, source, info, photos, watch, explored, workers)
    return results


def calibrate(seen: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[float, dict[str, float | None]]:
    """The temperature that images ask for which were not trained on, and what results.json says of it.

    Args:
        seen: logits (n, classes) and labels (n,) of val, of test, and of the images that cross-validation left out
            (cv). The temperature is of cv or, without it, of val; where there is neither it is 1.
    """
    asked = seen.get("cv") or seen.get("val")
    temperature = None if asked is None else fit_temperature(*asked)
    results: dict[str, float | None] = {"temperature": temperature}
    for split in ("cv", "val", "test"):
        for when, t in (("before", 1.0), ("after", temperature)):
            error = None if split not in seen or t is None else calibration_error(*seen[split], t)
            results[f"{split}_ece_{when}"] = error
    return temperature or 1.0, results


def versions() -> str:
    packages = ("gta-vit", "torch", "torchvision", "timm", "lightning")
    return ", ".join([f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)])


def git_state() -> str | None:
    """Commit of the checkout the command was run in, with a + where files were changed; None outside one."""
    try:
        ask = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
