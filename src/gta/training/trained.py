"""The model of a complete run: how it is shown an image, and what it says of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from gta.data.transforms import framed, normalised
from gta.devices import default_device
from gta.training.look import Closer
from gta.training.run_folder import load_weights


@dataclass(frozen=True)
class Trained:
    """A run's model, in eval mode on the device that is there.

    Attributes:
        model: timm's, (B, 3, size, size) float32 normalised -> logits (B, classes).
        architecture, model_args: `timm.create_model(architecture, **model_args)` builds it.
        classes: names in label order.
        mean, std: of the RGB channels in [0, 1].
        temperature: divides the logits before the softmax; 1 where none was fitted.
        folder: of the run.
        closer: which part of an image the model is shown; None where it is shown all.
    """

    model: nn.Module
    architecture: str
    model_args: dict[str, Any]
    classes: list[str]
    mean: list[float]
    std: list[float]
    temperature: float
    folder: Path
    closer: Closer | None = None

    @classmethod
    def load(cls, folder: Path) -> "Trained":
        """Read a run folder.

        Raises:
            GtaError: no finished run there.
        """
        model, known = load_weights(folder)
        return cls(model.to(default_device()), **known, folder=folder, closer=Closer.load(folder))

    @property
    def image_size(self) -> int:
        """Side of the images in px."""
        size = self.model_args["img_size"]
        return int(size[0] if isinstance(size, Sequence) else size)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def sees(self, image: Image.Image) -> Tensor:
        """What the model is given of an RGB image: (3, size, size) float32, normalised."""
        if self.closer is not None:
            (image,) = self.closer.of_images([image], [self.closer.view(image)])
        return self.normalised([self.view(image)])[0].cpu()

    def view(self, image: Image.Image) -> Tensor:
        """RGB image, or what the model is shown of it -> (3, size, size) uint8."""
        return framed(image, self.image_size)

    def normalised(self, views: Sequence[Tensor]) -> Tensor:
        """(3, size, size) as from `view` -> (B, 3, size, size) float32 as the model takes them, where it is."""
        return normalised(torch.stack(list(views)).to(self.device, non_blocking=True), self.mean, self.std)

    def probabilities(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) as from `sees` -> calibrated (B, classes) float32 on the CPU."""
        with torch.inference_mode():
            logits = self.model(images.to(self.device, non_blocking=True)).float()
            return (logits / self.temperature).softmax(-1).cpu()
