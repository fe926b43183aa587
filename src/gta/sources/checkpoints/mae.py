"""MAE (He et al. 2022, arXiv 2111.06377, github.com/facebookresearch/mae): fixed sin-cos positions, maybe a decoder.

`mae_pretrain_vit_*.pth` ends in `norm`, which the fine-tuned models replace by `fc_norm` over mean-pooled patches; both
are built as they are.
"""

import math

import torch
from torch import Tensor

from gta.sources.layout import Layout, Tensors


def sin_cos_positions(side: int, width: int, columns_first: bool = True) -> Tensor:
    """Fixed positions of side × side patches, (1, 1 + side², width) float32; that of [cls] is zero.

    Half of the channels are of the column, half of the row, MoCo v3's in the other order than MAE's; each half is sin
    and cos of the index times 10000^(−i / (width / 4)).
    """
    from timm.layers import build_sincos2d_pos_embed

    rows, columns = build_sincos2d_pos_embed([side, side], width, interleave_sin_cos=True).chunk(2, -1)
    grid = torch.cat([columns, rows] if columns_first else [rows, columns], -1)
    return torch.cat([torch.zeros(1, width), grid])[None]


def has_sin_cos_positions(tensors: Tensors, columns_first: bool = True) -> bool:
    """Whether these are the file's positions, within 2e-3 (half precision)."""
    position = tensors["pos_embed"]
    side = math.isqrt(max(0, position.shape[1] - 1)) if position.ndim == 3 else 0
    if not side or position.shape[1] != side * side + 1 or position.shape[2] % 4:
        return False
    return torch.allclose(position.float(), sin_cos_positions(side, position.shape[2], columns_first), atol=2e-3)


def _is_mae(tensors: Tensors) -> bool:
    return "decoder_embed.weight" in tensors or has_sin_cos_positions(tensors)


LAYOUT = Layout("MAE", required_keys=("cls_token", "pos_embed"), condition=_is_mae, precedence=2)
