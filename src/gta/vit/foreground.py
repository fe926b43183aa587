"""What a picture is about, read from a model's [cls] attention: a ranking of its patches, and the box to look at.

A self-supervised ViT attends to objects (DINO, arXiv 2104.14294, fig. 1): the patches that hold most of its [cls]
attention are a free mask of them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from gta.errors import GtaError
from gta.vit.attention_logits import AttentionMaps
from gta.vit.capture import evaluating, run_and_capture
from gta.vit.structure import vit_info

LAYERS = 3  # the last ones: their heads look at objects, the last alone more at parts of them
COMPACT = 0.05  # of the picture's squared side: spreads well below it are as good as none
SMOOTH = 0.8  # patches
RULE = f"last {LAYERS} layers, heads by 1 / (spread + {COMPACT})², smoothed by {SMOOTH}"  # kept with what it chose


def saliency(model: nn.Module, images: Tensor, layers: Sequence[int] | None = None, smooth: float = SMOOTH) -> Tensor:
    """The model's [cls] attention over the patches: mean over layers and heads by how compact they are, smoothed.

    Args:
        model: a ViT with a [cls] token.
        images: (B, 3, height, width), normalised.
        layers: whose attention; by default the last `LAYERS`.
        smooth: standard deviation of a Gaussian, in patches; 0 for none.

    Returns:
        (B, down, across) float32 on the CPU, each image's sum 1.

    Raises:
        GtaError: no [cls] token, or patches of unknown size.
    """
    vit = vit_info(model)
    grid = vit.patches(images)
    if not vit.has_cls or grid is None:
        lacks = "no [cls] token" if not vit.has_cls else "no patches of a known size"
        raise GtaError(f"{vit.name} has {lacks}, so its attention cannot say what a picture is about.")
    capture = AttentionMaps(vit, range(max(0, vit.depth - LAYERS), vit.depth) if layers is None else layers)
    with evaluating(model):
        (maps,) = run_and_capture(model, images, [capture])
    found = compact_mean(torch.stack(maps, 1).unflatten(-1, grid)).cpu()
    return smoothed(found, smooth)


def smoothed(attention: Tensor, smooth: float = SMOOTH) -> Tensor:
    """Attention over patches (…, down, across), blurred; each image's sum 1. `smooth` as in `saliency`."""
    if smooth > 0:
        attention = gaussian_blur(attention, [2 * round(3 * smooth) + 1] * 2, [smooth] * 2)
    return attention / attention.sum((-2, -1), keepdim=True)


def compact_mean(maps: Tensor) -> Tensor:
    """The mean over layers and heads, (B, L, H, h, w) -> (B, h, w), of which those that look at one place count most.

    A head counts by 1 / (`spread` + `COMPACT`)². Heads that look everywhere look at the background too. What this
    brings, and other averages: docs/default.md.
    """
    weights = (spread(maps) + COMPACT) ** -2
    return (maps * weights[..., None, None]).sum((1, 2)) / weights.sum((1, 2))[:, None, None]


def spread(maps: Tensor) -> Tensor:
    """Variance of where attention is, down and across, in squared sides of the picture: (…, h, w) -> (…)."""
    share = maps / maps.sum((-2, -1), keepdim=True)
    found = torch.zeros(maps.shape[:-2], device=maps.device)
    for across, others in ((maps.shape[-1], -2), (maps.shape[-2], -1)):
        place, looks = torch.linspace(0, 1, across, device=maps.device), share.sum(others)
        found += (looks * place**2).sum(-1) - (looks * place).sum(-1) ** 2
    return found


def ranked(saliency: Tensor) -> Tensor:
    """Of each patch, the share of the attention that is on patches attended at least as much: (…, h, w) in (0, 1].

    What is at most `mass` holds the top `mass` of the attention; the most attended patch is the lowest.
    """
    flat = saliency.flatten(-2)
    descending, order = flat.sort(-1, descending=True)
    cumulative = descending.cumsum(-1) / flat.sum(-1, keepdim=True)
    return torch.empty_like(flat).scatter(-1, order, cumulative).unflatten(-1, saliency.shape[-2:])


def attended_box(
    rank: Tensor, mass: float = 0.5, margin: float = 1.2, least: float = 0.3, aspect: float = 1.0
) -> tuple[float, float, float, float]:
    """The box around what one image's attention is on.

    That is the largest connected part of the patches that hold `mass` of it; its box is made square and larger, and
    moved inside the image. Where the attention is diffuse it is the whole image by itself.

    Args:
        rank: (h, w) from `ranked`, of the whole image, stretched.
        mass: share of the attention.
        margin: factor of the box's side.
        least: smallest side, in shares of the image's shorter one.
        aspect: width of the image over its height.

    Returns:
        left, top, right and bottom, in shares of the image's width and height.
    """
    part = largest_part(rank <= mass).numpy()
    (left, right), (top, bottom) = (np.flatnonzero(part.any(axis))[[0, -1]].tolist() for axis in (0, 1))
    right, bottom = right + 1, bottom + 1
    width, height = (aspect, 1.0) if aspect >= 1 else (1.0, 1 / aspect)  # in shares of the shorter side
    down, across = rank.shape
    side = max((right - left) / across * width, (bottom - top) / down * height)
    side = max(least, margin * side)

    def within(begin: float, end: float, length: float) -> tuple[float, float]:
        half = min(side, length) / 2
        centre = min(max((begin + end) / 2 * length, half), length - half)
        return (centre - half) / length, (centre + half) / length

    x, y = within(left / across, right / across, width), within(top / down, bottom / down, height)
    return x[0], y[0], x[1], y[1]


def largest_part(mask: Tensor) -> Tensor:
    """The largest 4-connected part of a (down, across) bool mask; of two as large the one that begins further up."""
    from scipy import ndimage

    parts, _ = ndimage.label(mask.numpy())
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # what is not in the mask
    first = sizes[parts].argmax()  # a pixel of the largest part; argmax takes the first of equals, row by row
    return torch.from_numpy(parts == parts.flat[first]) & mask
