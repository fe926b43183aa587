"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193; registers: Darcet et al. 2024; github.com/facebookresearch/dinov2).

The authors add the [cls] position before registers come in, where timm keeps it inside cls_token, and ViT-g has a
SwiGLU MLP (`mlp.w12`, `mlp.w3`): timm converts both. Training checkpoints may number blocks by chunk as well
(`blocks.CHUNK.BLOCK.`), which timm does not know.
"""

import re
from typing import Any

from gta.sources.layout import PLAIN, Converted, Layout, Tensors

_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+\.)")


def _convert(tensors: Tensors) -> Converted:
    from timm.models.vision_transformer import _convert_dinov2

    unused: Any = None  # the model
    renamed = _convert_dinov2({_CHUNKED.sub(r"blocks.\1", k): v for k, v in tensors.items()}, unused)
    if not any(".mlp.w12." in k for k in tensors):
        return Converted(renamed)
    return Converted(renamed, f"vit_giant_patch14_{'reg4_' if 'register_tokens' in tensors else ''}dinov2")


def _is_dinov2(tensors: Tensors) -> bool:
    scaled = any(k.endswith(".ls1.gamma") for k in tensors)
    return scaled and ("mask_token" in tensors or "register_tokens" in tensors)


LAYOUT = Layout(
    "DINOv2",
    _convert,
    required_keys=("cls_token", "pos_embed"),
    condition=_is_dinov2,
    typical_keys=(*PLAIN, "mask_token", "blocks.0.ls1.gamma"),
)
