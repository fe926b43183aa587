"""Mixup (Zhang et al. 2018, arXiv 1710.09412).

x = λ·x_i + (1 − λ)·x_j,   y = λ·y_i + (1 − λ)·y_j,   λ ~ Beta(alpha, alpha), one for the batch
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gta.methods.base import Grid, Part, check_number


@dataclass
class Mixup(Part):
    """Train on weighted means of two images and their labels.

    Args:
        alpha: Of the Beta distribution, above 0: small for weights near 0 and 1, 1 for uniform ones.
    """

    alpha: float = 0.8

    paper: ClassVar[str] = "Zhang 2018, arXiv 1710.09412"
    grid: ClassVar[Grid] = {"mixup.alpha": (0.1, 0.4, 0.8)}

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, above=True)

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        share, partner = beta(self.alpha), partners(images)
        return images.lerp(images[partner], 1 - share), targets.lerp(targets[partner], 1 - share)


def beta(alpha: float) -> float:
    """One number from Beta(alpha, alpha), from torch's global generator on the CPU."""
    return float(torch.distributions.Beta(alpha, alpha).sample())


def partners(images: Tensor) -> Tensor:
    """A random permutation of the batch, (B,), from torch's global generator on the CPU."""
    return torch.randperm(len(images)).to(images.device)
