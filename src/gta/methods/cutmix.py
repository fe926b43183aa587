"""CutMix (Yun et al. 2019, arXiv 1905.04899).

    x = x_i outside a box, x_j inside;   y = λ·y_i + (1 − λ)·y_j,   1 − λ: the box's share of the image

The box has the image's proportions, its area's share is drawn from Beta(alpha, alpha), its centre uniformly; the part
of it that lies in the image counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gta.methods.base import Grid, Part, check_number
from gta.methods.mixup import beta, partners


@dataclass
class CutMix(Part):
    """Train on images with a box from another, labels mixed by the box's area.

    Args:
        alpha: Of the Beta distribution, above 0: 1 for areas drawn uniformly.
    """

    alpha: float = 1.0

    paper: ClassVar[str] = "Yun 2019, arXiv 1905.04899"
    grid: ClassVar[Grid] = {"cutmix.alpha": (0.3, 1, 3)}

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, above=True)

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mask, partner = random_box(images, self.alpha), partners(images)
        share = 1 - float(mask.mean())
        return torch.where(mask > 0, images[partner], images), targets.lerp(targets[partner], 1 - share)


def random_box(images: Tensor, alpha: float) -> Tensor:
    """A box as a mask (height, width) float32, 1 inside, for images (B, C, height, width)."""
    side = (1 - beta(alpha)) ** 0.5
    mask = torch.zeros(images.shape[-2:])
    inside = []
    for length in images.shape[-2:]:
        centre, half = int(torch.randint(length, ())), int(length * side) / 2
        inside.append(slice(max(0, int(centre - half)), min(length, int(centre + half))))
    mask[inside[0], inside[1]] = 1
    return mask.to(images.device)
