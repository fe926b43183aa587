"""The architecture of a plain ViT, told from the shapes of its tensors."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gta.errors import GtaError
from gta.sources.layout import STEM, count_blocks, mlp_ratio
from gta.sources.recognition import nearest

HEAD_WIDTH = 64  # of every ViT-Ti/S/B/L published by DeiT, DINO, iBOT, MAE and DINOv2
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # SO400M, ViT-H, -g and -G of MAE, AugReg and OpenCLIP


def infer_architecture(tensors: Mapping[str, Tensor], heads: int | None = None) -> tuple[str, dict[str, Any]]:
    """timm entry point and arguments of the plain ViT whose tensors, under timm's names, these are.

    Args:
        tensors: among them `patch_embed.proj.weight`.
        heads: attention heads; None for what is usual at this width.

    Raises:
        GtaError: shapes that no plain ViT has, or a number of heads that they do not tell.
    """
    shape = tensors[STEM].shape
    if len(shape) != 4 or shape[2] != shape[3] or min(shape) < 1:
        raise GtaError(
            f"its patch embedding must have shape (width, channels, patch, patch) and not be empty, got {tuple(shape)}."
        )
    width, channels, patch, _ = shape
    for name in ("cls_token", "dist_token", "reg_token", "pos_embed"):
        if name in tensors and tensors[name].ndim != 3:
            raise GtaError(f"its {name} must have shape (1, tokens, width), got {tuple(tensors[name].shape)}.")
    depth = count_blocks(tensors)
    matrices = [tensors.get(f"blocks.0.{name}.weight") for name in ("attn.qkv", "mlp.fc1")]
    if not depth or any(matrix is None or matrix.ndim != 2 for matrix in matrices):
        raise GtaError(
            "it has a patch embedding but no blocks.N.attn.qkv and blocks.N.mlp.fc1: not a plain ViT. "
            f"{nearest(dict(tensors))}"
        )
    if "pos_embed" not in tensors:
        raise GtaError("it has no pos_embed: ViTs without learned positions cannot be rebuilt from shapes.")
    if heads is None and width % HEAD_WIDTH and width not in HEADS:
        raise GtaError(
            f"width {width} is not a multiple of {HEAD_WIDTH}, so the number of heads cannot be told from the shapes: "
            "give it with heads=N (--heads N)."
        )
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    prefix = int("cls_token" in tensors) + int("dist_token" in tensors) + registers
    args: dict[str, Any] = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads or HEADS.get(width) or width // HEAD_WIDTH,
        "mlp_ratio": mlp_ratio(tensors["blocks.0.mlp.fc1.weight"].shape[0], width),
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
    }
    scaled = "blocks.0.ls1.gamma" in tensors or "blocks.0.gamma_1" in tensors
    optional: dict[str, Any] = {
        "in_chans": channels if channels != 3 else None,
        "qk_norm": "blocks.0.attn.q_norm.weight" in tensors or None,
        "init_values": 1e-5 if scaled else None,
        "reg_tokens": registers or None,
        "pre_norm": "norm_pre.weight" in tensors or None,
        "global_pool": "avg" if "fc_norm.weight" in tensors and "norm.weight" not in tensors else None,
    }
    if "cls_token" not in tensors:
        optional |= {"class_token": False, "global_pool": "avg", "fc_norm": "fc_norm.weight" in tensors}
    args |= {k: v for k, v in optional.items() if v is not None}
    side, has_prefix = _grid(tensors["pos_embed"].shape[1], prefix, registers)
    args["img_size"] = side * patch
    if not has_prefix:
        args["no_embed_class"] = True
    return "deit_tiny_distilled_patch16_224" if "dist_token" in tensors else "vit_tiny_patch16_224", args


def _grid(length: int, prefix: int, registers: int) -> tuple[int, bool]:
    """Patches along the side of the image, and whether the prefix tokens have positions of their own."""
    for positions in (0, prefix) if registers else (prefix, 0):  # no ViT published with registers places the prefix
        side = math.isqrt(max(0, length - positions))
        if side > 0 and side * side == length - positions:
            return side, positions == prefix
    raise GtaError(
        f"its positions must be those of a square grid, with or without {prefix} prefix tokens, got {length}."
    )
