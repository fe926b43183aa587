"""CutMix (Yun et al. 2019, arXiv 1905.04899), torchvision's.

    x = x_i outside a box, x_j inside;   y = λ·y_i + (1 − λ)·y_j,   1 − λ: the box's share of the image

The box has the image's proportions, its area's share is drawn from Beta(alpha, alpha), its centre uniformly; the part
of it that lies in the image counts. j is i's neighbour in the batch.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torchvision.transforms import v2

from gta.methods.base import Grid, Method, check_number


@dataclass
class CutMix(Method):
    """Train on images with a box from another, labels mixed by the box's area.

    Args:
        alpha: Of the Beta distribution, above 0: 1 for areas drawn uniformly.
    """

    alpha: float = 1.0

    paper: ClassVar[str] = "Yun 2019, arXiv 1905.04899"
    grid: ClassVar[Grid] = {"cutmix.alpha": (0.3, 1, 3)}

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, above=True)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._mix = v2.CutMix(alpha=self.alpha, num_classes=int(target.num_classes))  # type: ignore[arg-type]

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        mixed: tuple[Tensor, Tensor] = self._mix(images, labels)
        return mixed
