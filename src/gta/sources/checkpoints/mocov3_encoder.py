"""MoCo v3's encoder alone, as in the authors' linear evaluation: known by its positions."""

from gta.sources.checkpoints.mae import has_sin_cos_positions
from gta.sources.checkpoints.mocov3 import with_heads
from gta.sources.layout import Layout, Tensors


def _has_its_positions(tensors: Tensors) -> bool:
    several = tensors["pos_embed"].shape[1] > 2  # of one patch, MAE's are the same
    return several and has_sin_cos_positions(tensors, columns_first=False)


_REQUIRED = ("cls_token", "pos_embed")
LAYOUT = Layout(
    "MoCo v3's encoder alone", with_heads, required_keys=_REQUIRED, condition=_has_its_positions, precedence=2
)
