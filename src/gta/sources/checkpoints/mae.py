"""MAE (He et al. 2022, arXiv 2111.06377, github.com/facebookresearch/mae): fixed sin-cos positions, maybe a decoder.

`mae_pretrain_vit_*.pth` ends in `norm`, which the fine-tuned models replace by `fc_norm` over mean-pooled patches; both
are built as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gta.sources.checkpoints.layout import PLAIN, STEM, Converted, Layout, Tensors


def sin_cos_positions(side: int, width: int) -> Tensor:
    """MAE's positions of side × side patches, (1, 1 + side², width) float32; that of [cls] is zero.

    Half of the channels are of the column, half of the row; each half is sin and cos of the index times
    10000^(−i / (width / 4)).
    """
    rates = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates
    one = torch.cat([angles.sin(), angles.cos()], 1)  # (side, width / 2)
    grid = torch.cat([one[None].expand(side, -1, -1), one[:, None].expand(-1, side, -1)], -1)
    return torch.cat([torch.zeros(1, width), grid.reshape(side * side, width).float()])[None]


def square_side(position: Tensor) -> int:
    """Patches along the side of positions (1, 1 + side², width); 0 where they are not of that form."""
    side = math.isqrt(max(0, position.shape[1] - 1)) if position.ndim == 3 else 0
    return side if side and position.shape[1] == side * side + 1 and position.shape[2] % 4 == 0 else 0


def _is_mae(tensors: Tensors) -> bool:
    if "decoder_embed.weight" in tensors:
        return True
    position = tensors["pos_embed"]
    side = square_side(position)
    if side == 0:
        return False
    return torch.allclose(position.float(), sin_cos_positions(side, position.shape[2]), atol=2e-3)


def _convert(tensors: Tensors) -> Converted:
    return Converted(tensors)


MAE = Layout("MAE", STEM, PLAIN, _convert, marks=("cls_token", "pos_embed"), sign=_is_mae)
