"""Distances between the target's and the source's attention rows.

A distance takes both rows and returns one number per image and head; `guide` averages those over images,
heads and guided layers. To add one, write a function of this shape and put it into `DISTANCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

Reduction = Literal["mean", "sum"]
Distance = Callable[[Tensor, Tensor, Reduction], Tensor]


def l2(target: Tensor, source: Tensor, reduction: Reduction) -> Tensor:
    """Squared difference of the scaled attention logits (GTA, arXiv 2401.02656).

    Args:
        target: rows of the model being tuned, (B, H, N) float32.
        source: rows of the frozen model, same shape.
        reduction: over the N patch tokens, "mean" or "sum".

    Returns:
        (B, H) float32.
    """
    squared = (target - source).square()
    return squared.mean(-1) if reduction == "mean" else squared.sum(-1)


DISTANCES: dict[str, Distance] = {"l2": l2}
