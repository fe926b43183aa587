"""Mixup (Zhang et al. 2018, arXiv 1710.09412), torchvision's.

x = λ·x_i + (1 − λ)·x_j,   y = λ·y_i + (1 − λ)·y_j,   λ ~ Beta(alpha, alpha), one for the batch

j is i's neighbour in the batch.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torchvision.transforms import v2

from gta.methods.base import Grid, Method, check_number


@dataclass
class Mixup(Method):
    """Train on weighted means of two images and their labels.

    Args:
        alpha: Of the Beta distribution, above 0: small for weights near 0 and 1, 1 for uniform ones.
    """

    alpha: float = 0.8

    paper: ClassVar[str] = "Zhang 2018, arXiv 1710.09412"
    grid: ClassVar[Grid] = {"mixup.alpha": (0.1, 0.4, 0.8)}

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, above=True)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._mix = v2.MixUp(alpha=self.alpha, num_classes=int(target.num_classes))  # type: ignore[arg-type]

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        mixed: tuple[Tensor, Tensor] = self._mix(images, labels)
        return mixed
