"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193; registers: Darcet et al. 2024; github.com/facebookresearch/dinov2).

The authors add the [cls] position before registers come in, where timm keeps it inside cls_token. Training checkpoints
may number blocks by chunk as well (`blocks.CHUNK.BLOCK.`), and ViT-g has a SwiGLU MLP (`mlp.w12`, `mlp.w3`).
"""

from __future__ import annotations

import re

from gta.sources.checkpoints.layout import PLAIN, STEM, Converted, Layout, Tensors

_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+\.)")


def _convert(tensors: Tensors) -> Converted:
    names = {k: _CHUNKED.sub(r"blocks.\1", k).replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
             for k in tensors}  # fmt: skip
    renamed = {names[k].replace("register_tokens", "reg_token"): v for k, v in tensors.items()}
    renamed.pop("mask_token", None)
    if "register_tokens" in tensors:
        position = renamed["pos_embed"]
        renamed["cls_token"] = renamed["cls_token"] + position[:, :1]
        renamed["pos_embed"] = position[:, 1:]
    if any(".mlp.w12." in k for k in tensors):
        base = "vit_giant_patch14_reg4_dinov2" if "register_tokens" in tensors else "vit_giant_patch14_dinov2"
        return Converted(renamed, base)
    return Converted(renamed)


def _is_dinov2(tensors: Tensors) -> bool:
    scaled = any(k.endswith(".ls1.gamma") for k in tensors)
    return scaled and ("mask_token" in tensors or "register_tokens" in tensors)


DINOV2 = Layout(
    "DINOv2",
    STEM,
    (*PLAIN, "mask_token", "blocks.0.ls1.gamma"),
    _convert,
    marks=("cls_token", "pos_embed"),
    sign=_is_dinov2,
)
