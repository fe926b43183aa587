"""[cls] attention as a segmentation of objects: DINO's protocol and variants in use. Definitions: docs/measures.md."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gta.attention.metrics import mask_overlap, mean_map, top_mask
from gta.registry import Registry


@dataclass(frozen=True)
class Protocol:
    """How attention becomes a mask and is compared.

    Attributes:
        mass: share of the attention that counts.
        merged: one map, the mean over heads, instead of the best head of each object.
        foreground: all objects of an image as one.
        image_size: side in px that the protocol prescribes, None for any.
    """

    mass: float = 0.6
    merged: bool = False
    foreground: bool = False
    image_size: int | None = None


PROTOCOLS = Registry(
    "protocol",
    {
        "dino": Protocol(),  # Caron et al. 2021, arXiv 2104.14294, section 4.2.2
        "merged": Protocol(merged=True),
        "wide": Protocol(mass=0.9, image_size=512),
        "foreground": Protocol(foreground=True),
    },
)


def object_masks(objects: Tensor) -> Tensor:
    """An image's objects apart: (height, width) int64, 0 for the background -> (objects, height, width) bool."""
    numbers = objects.unique()
    return objects == numbers[numbers > 0][:, None, None]


def object_jaccard(attention: Tensor, objects: Tensor, grid: tuple[int, int], protocol: Protocol) -> Tensor:
    """Intersection over union per image: best head of each object, mean over the image's objects.

    Args:
        attention: (B, H, N) from `patch_attention`, last layer.
        objects: (B, height, width) int64, 0 for the background, else the object's number.
        grid: patches (down, across).
        protocol: what counts and is compared.

    Returns:
        (B,) in [0, 1]; NaN for images without an object.
    """
    maps = mean_map(attention)[:, None] if protocol.merged else attention
    pixels = top_mask(maps, protocol.mass, grid, objects.shape[-2:])
    if protocol.foreground:
        objects = (objects > 0).long()
    scores = [
        mask_overlap(heads[:, None], object_masks(numbers)).max(0).values.mean()  # (H, objects) -> one; NaN of none
        for heads, numbers in zip(pixels, objects, strict=True)
    ]
    return torch.stack(scores)
