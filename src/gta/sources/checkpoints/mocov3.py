"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057, github.com/facebookresearch/moco-v3): `module.base_encoder.`.

The base encoder is taken, as in the authors' linear evaluation, not the momentum encoder. Its ViT-S has 12 heads of 32
channels, where others have 6 of 64. The encoder alone, as in the linear evaluation's files, is known by its positions.
"""

from __future__ import annotations

import torch

from gta.sources.checkpoints.layout import PLAIN, STEM, Converted, Layout, Tensors
from gta.sources.checkpoints.mae import sin_cos_positions, square_side

_HEADS = 12


def _convert(tensors: Tensors) -> Converted:
    inside = {k.removeprefix("base_encoder."): v for k, v in tensors.items() if k.startswith("base_encoder.")}
    others = {k: v for k, v in tensors.items() if not k.startswith("base_encoder.")}
    return Converted(others | inside, args=_heads(inside))


def _alone(tensors: Tensors) -> Converted:
    return Converted(tensors, args=_heads(tensors))


def _heads(tensors: Tensors) -> dict[str, int]:
    return {"num_heads": _HEADS} if tensors[STEM].shape[0] in (384, 768) else {}


def _has_its_positions(tensors: Tensors) -> bool:
    """MAE's sin-cos positions with row and column exchanged."""
    position = tensors["pos_embed"]
    side = square_side(position)
    if side < 2:
        return False
    rows, columns = sin_cos_positions(side, position.shape[2]).chunk(2, -1)
    return torch.allclose(position.float(), torch.cat([columns, rows], -1), atol=2e-3)


MOCOV3 = Layout("MoCo v3", f"base_encoder.{STEM}", tuple(f"base_encoder.{k}" for k in PLAIN), _convert)
MOCOV3_ALONE = Layout(
    "MoCo v3's encoder alone", STEM, PLAIN, _alone, marks=("cls_token", "pos_embed"), sign=_has_its_positions
)
