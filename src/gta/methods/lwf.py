"""LwF: learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282).

    L = weight · T² · KL(softmax(z_S / T) ‖ softmax(z_T / T)), mean over images

z_S: the source's classifier on the source's features; z_T: a copy of it, trained on, on the target's. The source sees
the same augmented images (the paper records its answers once, on plain ones); T² as in Hinton 2015 and in
Transfer-Learning-Library. The copy is dropped after training.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gta.distances import kl
from gta.methods.base import Grid, Method, Step, check_number
from gta.sources.classifier import source_classifier
from gta.vit.outputs import Features
from gta.vit.structure import ViTInfo


@dataclass
class LwF(Method):
    """Keep what the source's own classifier says; needs a source with one.

    Args:
        weight: Weight of the old answers, 0 or above.
        temperature: Softens both answers, above 0.
    """

    weight: float = 1.0
    temperature: float = 2.0

    paper: ClassVar[str] = "Li 2016, arXiv 1606.09282"
    grid: ClassVar[Grid] = {"lwf.weight": (0.1, 1, 10)}

    def __post_init__(self) -> None:
        check_number(self, "weight", 0)
        check_number(self, "temperature", 0, above=True)

    def attach(self, target: nn.Module, source: nn.Module) -> nn.Module:
        self._old, self._new = source_classifier(source, "lwf"), source_classifier(source, "lwf")
        self._old.requires_grad_(False)
        return self._new

    def capture(self, vit: ViTInfo) -> Features:
        return Features(vit)

    def penalty(self, target: Tensor, source: Tensor, step: Step) -> Tensor:
        with torch.no_grad():
            old = self._old.to(source)(source)
        return self.weight * kl(self._new(target).float(), old.float(), "sum", self.temperature).mean()
