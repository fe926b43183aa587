"""What a form of export is, and what every one is made from."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from gta.training.look import Closer
from gta.training.trained import Trained
from gta.vit.foreground import saliency, smoothed

Pixels = NDArray[np.float32]  # (B, 3, size, size), normalised
Said = tuple[NDArray[np.float32], NDArray[np.float32]]  # logits over the temperature, and probabilities, (B, classes)
Runner = Callable[[Pixels], Said]
Looker = Callable[[Pixels], NDArray[np.float32]]


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
        look: writes beside what says where a model that is shown parts of images is to look, from the source and
            its image size, and metadata; None where the form cannot.
        looker: loads that and runs it: (B, 3, size, size) -> attention over the patches (B, h, w).
    """

    write: Callable[[Exported, Path], Path]
    runner: Callable[[Path], Runner]
    needs: tuple[tuple[str, ...], str] = ((), "")
    own_view: Callable[[Path], Callable[[Image.Image], Tensor]] | None = None
    smaller: Callable[[Path], Path] | None = None
    look: Callable[[nn.Module, int, Mapping[str, Any], Path], Path] | None = None
    looker: Callable[[Path], Looker] | None = None

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


class Attention(nn.Module):
    """images -> where the model looks in them, (B, h, w): `gta.vit.foreground.saliency`, batches of any size traced."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return smoothed(saliency(self.model, images, smooth=0)[:, None])[:, 0]


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
    shown = "the whole image" if trained.closer is None else "what is cut out of the image by the model beside"
    return {
        "classes": trained.classes,
        "preprocessing": _preprocessing(
            f"the central square of {shown}", trained.image_size, trained.mean, trained.std
        ),
        "temperature": trained.temperature,
        "temperature_is": "in the weights already: a softmax of the logits is calibrated",
        "architecture": trained.architecture,
        "model_args": trained.model_args,
    }


def described_look(closer: Closer) -> dict[str, Any]:
    """Preprocessing of what says where to look, and how its answer becomes a box, as text or JSON."""
    info = closer.look.info
    return {
        "preprocessing": _preprocessing("none: the whole image, stretched", info.image_size, info.mean, info.std),
        "crop": {"method": closer.crop.name, **asdict(closer.crop)},  # type: ignore[call-overload]
        "crop_is": "the box around the largest 4-connected part of the patches that hold `mass` of the attention, made "
        "square and `margin` times as large, no side below `least` of the image's shorter one, moved inside the image",
    }


def _preprocessing(crop: str, size: int, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    return {
        "colours": "RGB, upright as the camera's orientation tag says, transparency on white",
        "crop": crop,
        "resize": [size, size],
        "interpolation": "bicubic, antialiased (Pillow's BICUBIC)",
        "scale": "values / 255",
        "mean": list(mean),
        "std": list(std),
        "layout": "batch, channel, height, width; float32",
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
