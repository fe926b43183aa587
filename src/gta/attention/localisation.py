"""Where [cls] attention points, and how widely it spreads. Definitions and sources: docs/measures.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gta.attention.metrics import mean_map, numbers_in, top_mass

Box = tuple[float, float, float, float]  # left, top, right, bottom, in px


def pointing_game(attention: Tensor, objects: Tensor, grid: tuple[int, int], tolerance: float = 15.0) -> Tensor:
    """Whether the patch with most attention lies on an object (Zhang et al. 2016, arXiv 1608.00507).

    Args:
        attention: (B, H, N) from `patch_attention`; its mean over heads counts.
        objects: (B, height, width) int64, 0 for the background.
        grid: patches (down, across).
        tolerance: px that the patch's centre may lie beside an object's nearest pixel.

    Returns:
        (B,) of 0 and 1; NaN for images without an object.
    """
    height, width = objects.shape[-2:]
    best = mean_map(attention).argmax(-1).tolist()
    hits = []
    for patch, numbers in zip(best, objects, strict=True):
        row, column = divmod(patch, grid[1])
        centre = torch.tensor([(row + 0.5) * height / grid[0], (column + 0.5) * width / grid[1]])
        pixels = (numbers > 0).nonzero().cpu() + 0.5
        distance = (pixels - centre).norm(dim=1).min() if len(pixels) else torch.tensor(torch.nan)
        hits.append(torch.where(distance.isnan(), distance, (distance <= tolerance).float()))
    return torch.stack(hits)


def correct_localisation(
    attention: Tensor, objects: Tensor, grid: tuple[int, int], mass: float = 0.6, overlap: float = 0.5
) -> Tensor:
    """Whether the box of the attention meets that of an object: CorLoc (Deselaers et al. 2010).

    The box is the tight one around the largest connected part of what holds the top 60 % of the mean attention, as the
    DINO-seg baseline of LOST has it (Siméoni et al. 2021, arXiv 2109.14279), there of one head.

    Args:
        attention: (B, H, N) from `patch_attention`; its mean over heads counts.
        objects: (B, height, width) int64, 0 for the background; each object has its tight box.
        grid: patches (down, across).
        mass: share of the attention kept.
        overlap: intersection over union that the boxes must reach.

    Returns:
        (B,) of 0 and 1; NaN for images without an object.
    """
    kept = top_mass(mean_map(attention), mass).unflatten(-1, grid).cpu()
    hits = []
    for patches, numbers in zip(kept, objects.cpu(), strict=True):
        down, across = (side / n for side, n in zip(numbers.shape, grid, strict=True))
        left, top, right, bottom = tight_box(largest_part(patches))
        box = (left * across, top * down, right * across, bottom * down)
        truths = [tight_box(numbers == n) for n in numbers_in(numbers)]
        hits.append(float(any(box_overlap(box, truth) >= overlap for truth in truths)) if truths else math.nan)
    return torch.tensor(hits)


def entropy(attention: Tensor) -> Tensor:
    """Shannon entropy of each head's attention over the patches, mean over heads, in shares of ln N.

    Args:
        attention: (B, H, N) from `patch_attention`.

    Returns:
        (B,) in [0, 1]: 0 where every head looks at one patch, 1 where all look at all patches alike.
    """
    shares = attention / attention.sum(-1, keepdim=True)
    return -(torch.special.xlogy(shares, shares).sum(-1) / math.log(attention.shape[-1])).mean(-1)


def largest_part(mask: Tensor) -> Tensor:
    """The largest 4-connected part of a (down, across) bool mask; of two as large the one that begins further up."""
    waiting = {(int(y), int(x)) for y, x in mask.nonzero()}
    best: set[tuple[int, int]] = set()
    while waiting:
        part, edge = set(), [min(waiting)]
        while edge:
            place = edge.pop()
            if place in waiting:
                waiting.remove(place)
                part.add(place)
                y, x = place
                edge += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if len(part) > len(best):
            best = part
    out = torch.zeros_like(mask)
    for y, x in best:
        out[y, x] = True
    return out


def tight_box(mask: Tensor) -> Box:
    """Left, top, right and bottom edge of what a bool mask holds; it must hold something."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1


def box_overlap(one: Box, two: Box) -> float:
    """Intersection over union of two boxes."""
    across = min(one[2], two[2]) - max(one[0], two[0])
    down = min(one[3], two[3]) - max(one[1], two[1])
    both = max(0.0, across) * max(0.0, down)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return both / (areas - both)
