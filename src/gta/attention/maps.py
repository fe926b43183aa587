"""Logits and [cls] rows of a model in one forward pass, for measuring and drawing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gta.guidance import evaluating
from gta.taps import RowTap, anatomy, captured_rows, check_images


def logits_and_rows(model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run a model in eval mode without autograd.

    Args:
        model: a ViT with a [cls] token.
        images: (B, C, height, width), normalised.

    Returns:
        Its logits, and per layer the scaled logits of the [cls] query over *all* tokens, (B, H, P + N) float32.
    """
    check_images(model, images)
    layers = range(anatomy(model).depth)
    tap = RowTap(layers, first_key=0)
    with evaluating(model), torch.no_grad(), tap:
        logits = model(images)
    return logits, captured_rows(tap, model, layers)


def patch_grid(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """Patches (down, across) of these images."""
    fixed = anatomy(model).grid
    if fixed is not None:
        return fixed
    down, across = model.patch_embed.patch_size  # type: ignore[union-attr,misc]
    return -(-images.shape[-2] // down), -(-images.shape[-1] // across)
