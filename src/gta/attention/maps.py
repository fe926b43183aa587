"""Logits and [cls] rows of a model in one forward pass, for measuring and drawing."""

import torch
from torch import Tensor, nn

from gta.attention.metrics import patch_attention
from gta.errors import GtaError
from gta.vit.attention_logits import AttentionLogits
from gta.vit.capture import evaluating
from gta.vit.structure import vit_info


def logits_and_rows(model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run a model in eval mode without autograd.

    Args:
        model: a ViT with a [cls] token.
        images: (B, C, height, width), normalised.

    Returns:
        Its logits, and per layer the scaled logits of the [cls] query over *all* tokens, (B, H, P + N) float32.
    """
    info = vit_info(model)
    if not info.has_cls:
        raise GtaError(f"{info.name} has no [cls] token, so there is no [cls] attention to measure or draw.")
    info.check(images)
    capture = AttentionLogits(info, range(info.depth), prefix=True)
    with evaluating(model), torch.no_grad(), capture:
        output = model(images)
    rows = [row.float() for row in capture.read(images)]
    return getattr(output, "logits", output), rows


def last_attention(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """A model's logits, and on the CPU its last layer's [cls] attention over patches.

    Args:
        model: a ViT with a [cls] token, on any device.
        images: (B, 3, height, width), normalised.

    Returns:
        Its logits as from `logits_and_rows`, and (B, H, N) float32 as from `patch_attention`.
    """
    logits, rows = logits_and_rows(model, images.to(next(model.parameters()).device))
    return logits, patch_attention(rows[-1], vit_info(model).prefix_tokens).cpu()


def patch_grid(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """Patches (down, across) of these images."""
    info = vit_info(model)
    grid = info.patches(images)
    if grid is None:
        raise GtaError(f"{info.name} does not say the size of its patches (patch_size), so no map can be drawn of it.")
    return grid
