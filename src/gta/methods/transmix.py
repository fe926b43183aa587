"""TransMix (Chen et al. 2022, arXiv 2111.09833).

CutMix whose labels are mixed by how much of the target's own attention falls into the box:

    y = (1 − λ)·y_i + λ·y_j,   λ = (Σ over patches of A·M / Σ A + area(M)) / 2

A: the last layer's [cls] attention over the patches, after softmax, mean over heads, of the mixed image; M: the box on
the patch grid (nearest neighbour). The mean with the box's area is in the authors' code, not in the paper's equation.
No gradient runs through the labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gta.methods.base import Grid, Part, check_number
from gta.methods.cutmix import random_box
from gta.methods.mixup import partners
from gta.vit.attention_logits import RowTap, captured
from gta.vit.structure import anatomy


@dataclass
class TransMix(Part):
    """CutMix whose labels follow the target's own [cls] attention.

    Args:
        alpha: Of the Beta distribution of the box's area, above 0: 1 for areas drawn uniformly.
    """

    alpha: float = 1.0

    paper: ClassVar[str] = "Chen 2022, arXiv 2111.09833"
    grid: ClassVar[Grid] = {"transmix.alpha": (0.3, 1, 3)}

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, above=True)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._body = anatomy(target)

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        self._mask, self._partner = random_box(images, self.alpha), partners(images)
        self._mixed = torch.where(self._mask > 0, images[self._partner], images)
        return self._mixed, targets

    def watch(self) -> RowTap:
        self._tap = RowTap([self._body.depth - 1], 0)
        return self._tap

    @torch.no_grad()
    def relabel(self, targets: Tensor) -> Tensor:
        (reading,) = captured(self._tap, self._body, [self._body.depth - 1], self._mixed)
        attention = reading.rows().softmax(-1)[..., self._body.prefix_tokens :].mean(1)  # (B, N)
        grid = self._body.patches(self._mixed)
        inside = F.interpolate(self._mask[None, None], size=grid, mode="nearest").flatten()  # (N,)
        share = ((attention * inside).sum(-1) / attention.sum(-1) + self._mask.mean()) / 2  # (B,)
        return targets.lerp(targets[self._partner], share[:, None].to(targets))
