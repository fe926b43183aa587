"""The architecture of a plain ViT, told from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gta.errors import GtaError
from gta.sources.checkpoints.layout import STEM, mlp_ratio
from gta.sources.checkpoints.recognise import nearest

HEAD_WIDTH = 64  # of every ViT-Ti/S/B/L published by DeiT, DINO, iBOT, MAE and DINOv2
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # SO400M, ViT-H, -g and -G of MAE, AugReg and OpenCLIP
MOST_BLOCKS = 1000


def infer_architecture(
    tensors: Mapping[str, Tensor], path: Path, heads: int | None = None
) -> tuple[str, dict[str, Any]]:
    """timm entry point and arguments of the plain ViT whose tensors, under timm's names, these are.

    Raises:
        GtaError: shapes that no plain ViT has, or a number of heads that they do not tell.
    """
    shape = tensors[STEM].shape
    if len(shape) != 4 or shape[2] != shape[3]:
        raise GtaError(
            f"{path}: its patch embedding has shape {tuple(shape)}, where (width, channels, patch, patch) is that of "
            "a plain ViT for images."
        )
    if min(shape) < 1:
        raise GtaError(f"{path}: its patch embedding has shape {tuple(shape)}: it is empty.")
    width, channels, patch, _ = shape
    for name in ("cls_token", "dist_token", "reg_token", "pos_embed"):
        if name in tensors and tensors[name].ndim != 3:
            raise GtaError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, where (1, tokens, width) is usual.")
    blocks = [int(k.split(".")[1]) for k in tensors if k.startswith("blocks.") and k.split(".")[1].isdecimal()]
    matrices = [tensors.get(f"blocks.0.{name}.weight") for name in ("attn.qkv", "mlp.fc1")]
    if not blocks or any(matrix is None or matrix.ndim != 2 for matrix in matrices):
        raise GtaError(
            f"{path} has a patch embedding but no blocks.N.attn.qkv and blocks.N.mlp.fc1: not a plain ViT. "
            f"{nearest(dict(tensors))}"
        )
    if max(blocks) >= MOST_BLOCKS:
        raise GtaError(f"{path} numbers a block {max(blocks):,}: no ViT is so deep; the file is damaged or hostile.")
    if heads is None:
        if width % HEAD_WIDTH and width not in HEADS:
            raise GtaError(
                f"{path}: width {width} is not a multiple of {HEAD_WIDTH}, so the number of heads cannot be told "
                "from the shapes: give it with heads=N (--heads N)."
            )
        heads = HEADS.get(width) or width // HEAD_WIDTH
    distilled = "dist_token" in tensors
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    prefix = int("cls_token" in tensors) + int(distilled) + registers
    args: dict[str, Any] = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": max(blocks) + 1,
        "num_heads": heads,
        "mlp_ratio": mlp_ratio(tensors["blocks.0.mlp.fc1.weight"].shape[0], width),
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
    }
    optional: dict[str, Any] = {
        "in_chans": channels if channels != 3 else None,
        "qk_norm": "blocks.0.attn.q_norm.weight" in tensors or None,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in tensors else None,
        "reg_tokens": registers or None,
        "pre_norm": "norm_pre.weight" in tensors or None,
        "global_pool": "avg" if "fc_norm.weight" in tensors and "norm.weight" not in tensors else None,
    }
    if "cls_token" not in tensors:
        optional |= {"class_token": False, "global_pool": "avg", "fc_norm": "fc_norm.weight" in tensors}
    args |= {k: v for k, v in optional.items() if v is not None}
    if "pos_embed" not in tensors:
        raise GtaError(f"{path} has no pos_embed: ViTs without learned positions cannot be rebuilt from shapes.")
    length = tensors["pos_embed"].shape[1]
    for positions in (0, prefix) if registers else (prefix, 0):  # no ViT published with registers places the prefix
        side = math.isqrt(max(0, length - positions))
        if side > 0 and side * side == length - positions:
            args["img_size"] = side * patch
            if positions != prefix:
                args["no_embed_class"] = True
            break
    else:
        raise GtaError(f"{path}: {length} positions are no square grid (with or without {prefix} prefix tokens).")
    return "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224", args
