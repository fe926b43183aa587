"""[cls] attention as a segmentation of objects: DINO's protocol and variants in use. Definitions: docs/measures.md."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gta.attention.metrics import mean_map, numbers_in, top_mass
from gta.errors import GtaError


@dataclass(frozen=True)
class Protocol:
    """How attention becomes a mask and is compared.

    Attributes:
        mass: share of the attention kept.
        merged: one map, the mean over heads, instead of the best head of each object.
        foreground: all objects of an image as one.
        image_size: side in px that the protocol prescribes, None for any.
    """

    mass: float = 0.6
    merged: bool = False
    foreground: bool = False
    image_size: int | None = None


PROTOCOLS = {
    "dino": Protocol(),  # Caron et al. 2021, arXiv 2104.14294, section 4.2.2
    "merged": Protocol(merged=True),
    "wide": Protocol(mass=0.9, image_size=512),
    "foreground": Protocol(foreground=True),
}


def protocol_of(name: str) -> Protocol:
    """The protocol of this name."""
    if name not in PROTOCOLS:
        raise GtaError(f"--protocol {name} is not known: use one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def object_jaccard(attention: Tensor, objects: Tensor, grid: tuple[int, int], protocol: Protocol) -> Tensor:
    """Intersection over union per image: best head of each object, mean over the image's objects.

    Args:
        attention: (B, H, N) from `patch_attention`, last layer.
        objects: (B, height, width) int64, 0 for the background, else the object's number.
        grid: patches (down, across).
        protocol: what is kept and compared.

    Returns:
        (B,) in [0, 1]; NaN for images without an object.
    """
    maps = mean_map(attention)[:, None] if protocol.merged else attention
    kept = top_mass(maps, protocol.mass).unflatten(-1, grid)
    pixels = F.interpolate(kept.float(), size=objects.shape[-2:], mode="nearest").bool()
    if protocol.foreground:
        objects = (objects > 0).long()
    scores = []
    for masks, numbers in zip(pixels, objects, strict=True):
        best = [_overlap(masks, numbers == n).max() for n in numbers_in(numbers)]
        scores.append(torch.stack(best).mean() if best else torch.full((), torch.nan, device=objects.device))
    return torch.stack(scores)


def _overlap(masks: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of (H, height, width) with (height, width), both bool: (H,)."""
    return (masks & truth).sum((-2, -1)) / (masks | truth).sum((-2, -1))
