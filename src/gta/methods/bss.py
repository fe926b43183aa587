"""BSS: batch spectral shrinkage (Chen et al. 2019, "Catastrophic forgetting meets negative transfer", NeurIPS).

    L = eta · Σ of the k smallest σ²

σ: the singular values of the (B × width) matrix of a batch's features, the classifier's input.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gta.errors import GtaError
from gta.methods.base import Grid, Method, Step, check_number
from gta.vit.outputs import Features
from gta.vit.structure import ViTInfo


@dataclass
class BSS(Method):
    """Shrink the smallest singular values of a batch's features.

    Args:
        eta: Weight of the shrinkage, 0 or above.
        k: Number of singular values shrunk, at least 1 and no more than a batch has images.
    """

    eta: float = 0.001
    k: int = 1

    paper: ClassVar[str] = "Chen 2019, NeurIPS"
    captures_source: ClassVar[bool] = False
    grid: ClassVar[Grid] = {"bss.eta": (0.0001, 0.001, 0.01)}

    def __post_init__(self) -> None:
        check_number(self, "eta", 0)
        check_number(self, "k", 1)

    def capture(self, vit: ViTInfo) -> Features:
        return Features(vit)

    def penalty(self, target: Tensor, source: None, step: Step) -> Tensor:
        features = target.float()
        if self.k > min(features.shape):
            raise GtaError(
                f"--bss.k {self.k} is more than the {min(features.shape)} singular values of a batch's features, "
                f"{tuple(features.shape)}: write a smaller one, or a larger --batch-size."
            )
        return self.eta * torch.linalg.svdvals(features)[-self.k :].square().sum()
