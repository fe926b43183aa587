"""Measures of [cls] attention against an object mask. Definitions and sources: docs/measures.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_attention(rows: Tensor, prefix_tokens: int) -> Tensor:
    """Softmax over all tokens, prefix columns dropped.

    Args:
        rows: scaled logits of the [cls] query over all tokens, (B, H, P + N).
        prefix_tokens: P.

    Returns:
        (B, H, N); a head's sum is below 1 by what it gives to prefix tokens.
    """
    return rows.softmax(-1)[..., prefix_tokens:]


def mean_map(attention: Tensor) -> Tensor:
    """Mean over heads, renormalised over the patches: (B, H, N) -> (B, N)."""
    mean = attention.mean(1)
    return mean / mean.sum(-1, keepdim=True)


def object_mass(attention: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of the mean [cls] attention that falls on the object.

    Args:
        attention: (B, H, N) from `patch_attention`, last layer.
        mask: (B, height, width) in [0, 1]; area-averaged to the patch grid.
        grid: patches (down, across), N = down · across.

    Returns:
        (B,) in [0, 1].
    """
    area = F.adaptive_avg_pool2d(mask[:, None], grid).flatten(1)
    return (mean_map(attention) * area).sum(-1)


def numbers_in(objects: Tensor) -> list[int]:
    """The numbers of an image's objects, (height, width) int64, without the background's 0."""
    return [n for n in objects.flatten().bincount().nonzero().flatten().tolist() if n]


def top_mass(attention: Tensor, mass: float) -> Tensor:
    """The patches that together hold the largest `mass` of each map: (…, N) -> (…, N) bool.

    As DINO's `visualize_attention.py` does it: in ascending order, patches whose cumulative share exceeds 1 − mass.
    """
    ascending, order = attention.sort(-1)
    cumulative = (ascending / ascending.sum(-1, keepdim=True)).cumsum(-1)
    return torch.zeros_like(attention, dtype=torch.bool).scatter(-1, order, cumulative > 1 - mass)


def jaccard(attention: Tensor, mask: Tensor, grid: tuple[int, int], mass: float = 0.6) -> Tensor:
    """Intersection over union of thresholded attention and mask, best head of each image.

    DINO's protocol (Caron et al. 2021, arXiv 2104.14294, fig. 4 and its `visualize_attention.py`): per head
    keep the patches that together hold the top 60 % of the mass, upsample by nearest neighbour.

    Args:
        attention: (B, H, N) from `patch_attention`, last layer.
        mask: (B, height, width) in {0, 1}.
        grid: patches (down, across).
        mass: share of the attention kept.

    Returns:
        (B,) in [0, 1].
    """
    kept = top_mass(attention, mass)
    pixels = F.interpolate(kept.unflatten(-1, grid).float(), size=mask.shape[-2:], mode="nearest").bool()
    truth = mask[:, None] > 0.5
    both = (pixels & truth).sum((-2, -1))
    either = (pixels | truth).sum((-2, -1))
    return (both / either.clamp(min=1)).max(1).values
