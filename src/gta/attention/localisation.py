"""Where [cls] attention points, and how widely it spreads. Definitions and sources: docs/measures.md."""

import math

import torch
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes

from gta.attention.metrics import mean_map, top_mass
from gta.attention.segmentation import object_masks
from gta.vit.foreground import largest_part


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
        near = (pixels - centre).norm(dim=1) <= tolerance
        hits.append(float(near.any()) if len(pixels) else math.nan)
    return torch.tensor(hits)


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
        mass: share of the attention that counts.
        overlap: intersection over union that the boxes must reach.

    Returns:
        (B,) of 0 and 1; NaN for images without an object.
    """
    top = top_mass(mean_map(attention), mass).unflatten(-1, grid).cpu()
    down, across = (side / n for side, n in zip(objects.shape[-2:], grid, strict=True))
    scale = torch.tensor([across, down, across, down], dtype=torch.float64)  # patches to px
    hits = []
    for patches, numbers in zip(top, objects.cpu(), strict=True):
        box, truths = tight_boxes(largest_part(patches)[None]) * scale, tight_boxes(object_masks(numbers))
        hits.append(float((box_iou(box, truths) >= overlap).any()) if len(truths) else math.nan)
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


def tight_boxes(masks: Tensor) -> Tensor:
    """Edges of what bool masks (n, height, width) hold: left, top, right and bottom, (n, 4) float64."""
    return masks_to_boxes(masks).double() + torch.tensor([0, 0, 1, 1])  # torchvision's right and bottom are inclusive
