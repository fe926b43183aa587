"""Measures of [cls] attention against an object mask. Definitions and sources: docs/measures.md."""

from collections.abc import Sequence

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


def top_mass(attention: Tensor, mass: float) -> Tensor:
    """The patches that together hold the largest `mass` of each map: (…, N) -> (…, N) bool.

    As DINO's `visualize_attention.py` does it: in ascending order, patches whose cumulative share exceeds 1 − mass.
    """
    ascending, order = attention.sort(-1)
    cumulative = (ascending / ascending.sum(-1, keepdim=True)).cumsum(-1)
    return torch.zeros_like(attention, dtype=torch.bool).scatter(-1, order, cumulative > 1 - mass)


def top_mask(attention: Tensor, mass: float, grid: tuple[int, int], size: Sequence[int]) -> Tensor:
    """The pixels of `top_mass`, upsampled by nearest neighbour: (B, H, N) -> (B, H, *size) bool."""
    kept = top_mass(attention, mass).unflatten(-1, grid)
    return F.interpolate(kept.float(), size=tuple(size), mode="nearest").bool()


def mask_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of bool masks that broadcast to (…, height, width): (…); 0 where both are empty."""
    both, either = (one & other).sum((-2, -1)), (one | other).sum((-2, -1))
    return both / either.clamp(min=1)


def jaccard(attention: Tensor, mask: Tensor, grid: tuple[int, int], mass: float = 0.6) -> Tensor:
    """Intersection over union of thresholded attention and mask, best head of each image.

    DINO's protocol (Caron et al. 2021, arXiv 2104.14294, fig. 4 and its `visualize_attention.py`): per head
    keep the patches that together hold the top 60 % of the mass, upsample by nearest neighbour.

    Args:
        attention: (B, H, N) from `patch_attention`, last layer.
        mask: (B, height, width) in {0, 1}.
        grid: patches (down, across).
        mass: share of the attention that counts.

    Returns:
        (B,) in [0, 1].
    """
    pixels = top_mask(attention, mass, grid, mask.shape[-2:])
    return mask_overlap(pixels, mask[:, None] > 0.5).max(1).values
