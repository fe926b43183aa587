"""BSS: batch spectral shrinkage (Chen et al. 2019, "Catastrophic forgetting meets negative transfer", NeurIPS).

    L = eta · Σ of the k smallest σ²

σ: the singular values of the (B × width) matrix of a batch's features, the classifier's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gta.errors import GtaError
from gta.methods.base import Grid, Part, Step, check_number
from gta.vit.outputs import Features


@dataclass
class BSS(Part):
    """Shrink the smallest singular values of a batch's features.

    Args:
        eta: Weight of the shrinkage, 0 or above.
        k: Number of singular values shrunk, at least 1 and no more than a batch has images.
    """

    eta: float = 0.001
    k: int = 1

    paper: ClassVar[str] = "Chen 2019, NeurIPS"
    grid: ClassVar[Grid] = {"bss.eta": (0.0001, 0.001, 0.01)}

    def __post_init__(self) -> None:
        check_number(self, "eta", 0)
        check_number(self, "k", 1)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._watch = Features(target)

    def watch(self) -> Features:
        return self._watch

    def penalty(self, step: Step) -> Tensor:
        features = self._watch.features().float()
        if self.k > min(features.shape):
            raise GtaError(
                f"--bss.k {self.k} is more than the {min(features.shape)} singular values of a batch's features, "
                f"{tuple(features.shape)}: write a smaller one, or a larger --batch-size."
            )
        return self.eta * torch.linalg.svdvals(features)[-self.k :].square().sum()
