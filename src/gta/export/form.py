"""What a form of export is, and what every one is made from."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from gta.errors import GtaError
from gta.registry import Registry
from gta.training.trained import Trained

Pixels = NDArray[np.float32]  # (B, 3, size, size), normalised
Said = tuple[NDArray[np.float32], NDArray[np.float32]]  # logits over the temperature, and probabilities, (B, classes)
Runner = Callable[[Pixels], Said]


@dataclass(frozen=True)
class Exported:
    """What is written.

    Attributes:
        model: timm's, in eval mode on the CPU, the temperature folded into its classifier: its softmax is calibrated.
        trained: the run's model as it was.
        metadata: what a file of it should say of itself, see `described`.
        card: text of the model card, without a heading for a hub.
        licence: of the source's weights, as a hub spells it; None where nobody says.
    """

    model: nn.Module
    trained: Trained
    metadata: Mapping[str, Any]
    card: str
    licence: str | None


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        write: writes the model into an empty folder and returns the file or folder to give to whoever runs it.
        runner: loads that with nothing of this package, and runs it.
        needs: packages to import, and the command that installs them.
        own_view: what the form's own preprocessing makes of an RGB image, (3, size, size); None where it has none.
        smaller: writes a smaller model beside, of int8 weights; None where there is none.
    """

    write: Callable[[Exported, Path], Path]
    runner: Callable[[Path], Runner]
    needs: tuple[tuple[str, ...], str] = ((), "")
    own_view: Callable[[Path], Callable[[Image.Image], Tensor]] | None = None
    smaller: Callable[[Path], Path] | None = None

    def check_needs(self, name: str) -> None:
        """Raise GtaError where a package is not installed."""
        packages, install = self.needs
        for package in packages:
            try:
                import_module(package)
            except ImportError as error:
                raise GtaError(f"--to {name} needs {package}, which is not installed: {install}") from error


FORMS: Registry[Form] = Registry("form", package="gta.export.formats", entry=lambda module: module.FORM)


class WithProbabilities(nn.Module):
    """images -> (logits, probabilities)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        return logits, logits.softmax(-1)


def calibrated(trained: Trained) -> nn.Module:
    """A copy of the model on the CPU, the temperature in it: its classifier's weights are divided by that."""
    model = copy.deepcopy(trained.model).cpu().eval().requires_grad_(False)
    heads = model.get_classifier()  # type: ignore[operator]
    for head in heads if isinstance(heads, tuple) else (heads,):
        for parameter in head.parameters():
            parameter.div_(trained.temperature)
    return model


def described(trained: Trained) -> dict[str, Any]:
    """Labels, preprocessing and temperature, as text or JSON."""
    size = trained.image_size
    return {
        "classes": trained.classes,
        "preprocessing": {
            "colours": "RGB, upright as the camera's orientation tag says, transparency on white",
            "crop": "the central square of the whole image",
            "resize": [size, size],
            "interpolation": "bicubic, antialiased (Pillow's BICUBIC)",
            "scale": "values / 255",
            "mean": trained.mean,
            "std": trained.std,
            "layout": "batch, channel, height, width; float32",
        },
        "temperature": trained.temperature,
        "temperature_is": "in the weights already: a softmax of the logits is calibrated",
        "architecture": trained.architecture,
        "model_args": trained.model_args,
    }


def as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Values as text, where they are none as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in metadata.items()}


def run_torch(model: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Runner:
    """A model of torch's, (B, 3, size, size) -> logits, as a runner."""

    def run(pixels: Pixels) -> Said:
        with torch.inference_mode():
            logits = model(torch.from_numpy(pixels)) / temperature
            return logits.numpy(), logits.softmax(-1).numpy()

    return run
