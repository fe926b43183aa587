"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057, github.com/facebookresearch/moco-v3): `module.base_encoder.`.

The base encoder is taken, as in the authors' linear evaluation, not the momentum encoder. Its ViT-S has 12 heads of 32
channels, where others have 6 of 64.
"""

from __future__ import annotations

from gta.checkpoints.layout import PLAIN, STEM, Converted, Layout, Tensors

_HEADS = 12


def _convert(tensors: Tensors) -> Converted:
    inside = {k.removeprefix("base_encoder."): v for k, v in tensors.items() if k.startswith("base_encoder.")}
    others = {k: v for k, v in tensors.items() if not k.startswith("base_encoder.")}
    args = {"num_heads": _HEADS} if inside[STEM].shape[0] in (384, 768) else {}
    return Converted(others | inside, args=args)


MOCOV3 = Layout("MoCo v3", f"base_encoder.{STEM}", tuple(f"base_encoder.{k}" for k in PLAIN), _convert)
