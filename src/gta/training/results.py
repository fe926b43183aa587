"""What a trained run comes to: its model on validation and test, and the content of results.json."""

import platform
import subprocess
from importlib.metadata import version
from typing import Any

from torch import nn

from gta.attention.plots import draw_maps
from gta.data.reading import Photos
from gta.sources.info import SourceInfo
from gta.training.evaluate import measure, validate
from gta.training.run_folder import RunFolder, save_weights

OF_MASKS = ("object_mass", "source_object_mass", "jaccard", "source_jaccard", "drift")


def evaluate(
    target: nn.Module, source: nn.Module, info: SourceInfo, photos: Photos, workers: int, folder: RunFolder
) -> dict[str, Any]:
    """Save the model, measure it on val and test, and draw what it looks at."""
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
        },
    )
    val_top1, val_loss = validate(target, info, photos.val, workers=workers) if photos.val else (None, None)
    results: dict[str, Any] = {
        "val_top1": val_top1,
        "val_loss": val_loss,
        "test_top1": None,
        **dict.fromkeys(OF_MASKS),
    }
    if photos.test:
        tested = measure(target, source, info, photos.test, workers=workers)
        results |= {"test_top1": tested.pop("top1"), **tested}
        draw_maps(
            source, {"fine-tuned": target}, info, photos.test, photos.classes, folder.path / "maps" / "attention.png"
        )
    return results


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
