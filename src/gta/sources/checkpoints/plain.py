"""Plain ViTs under timm's names: timm, DeiT, DINO, iBOT, and what Lightning, lightly and lightly-train save of them.

DINO (Caron et al. 2021, github.com/facebookresearch/dino) and iBOT (Zhou et al. 2022, github.com/bytedance/ibot) name
tensors as timm does, alone or as `teacher`/`student` with `backbone.` before and projection heads beside them.
"""

from __future__ import annotations

from gta.sources.checkpoints.layout import PLAIN, STEM, Converted, Layout, Tensors


def _same(tensors: Tensors) -> Converted:
    """timm's names as they are; a mask token is of use in pre-training only."""
    return Converted(tensors)


def _without_mask(tensors: Tensors) -> Converted:
    return _same({k: v for k, v in tensors.items() if k != "masked_embed"})


def _deit3(tensors: Tensors) -> Converted:
    """DeiT-III (Touvron et al. 2022, github.com/facebookresearch/deit) calls layer scale gamma_1 and gamma_2."""
    renamed = {k.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma"): v for k, v in tensors.items()}
    return _same(renamed)


PLAIN_VIT = Layout("a plain ViT under timm's names (timm, DeiT, DINO, iBOT)", STEM, PLAIN, _same)
IBOT = Layout("iBOT's student", STEM, (*PLAIN, "masked_embed"), _without_mask, marks=("masked_embed",))
DEIT3 = Layout("DeiT-III", STEM, (*PLAIN, "blocks.0.gamma_1"), _deit3, marks=("blocks.0.gamma_1",))
