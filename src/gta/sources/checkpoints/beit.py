"""BEiT (Bao et al. 2022) and SimMIM (Xie et al. 2022) where they are plain: q and v have a bias of their own, k none.

Their published models add a learned relative position bias to the attention logits, which plain ViTs do not have: those
are refused.
"""

from __future__ import annotations

import torch

from gta.errors import GtaError
from gta.sources.checkpoints.layout import PLAIN, STEM, Converted, Layout, Tensors
from gta.sources.checkpoints.plain import DEIT3


def _convert(tensors: Tensors) -> Converted:
    biases = [k for k in tensors if "relative_position" in k or "rel_pos" in k]
    if biases:
        raise GtaError(
            f"this is BEiT or SimMIM with a relative position bias ({biases[0]}) in its attention, which a plain ViT "
            "does not have: its [cls] rows could not be compared. Use a model without, such as MAE or iBOT."
        )
    renamed = dict(tensors)
    for key in [k for k in tensors if k.endswith("attn.q_bias")]:
        q, v = renamed.pop(key), renamed.pop(key.replace("q_bias", "v_bias"))
        renamed[key.replace("q_bias", "qkv.bias")] = torch.cat([q, torch.zeros_like(q), v])
    renamed.pop("mask_token", None)
    return DEIT3.convert(renamed)


BEIT = Layout(
    "BEiT or SimMIM", STEM, (*PLAIN, "blocks.0.attn.q_bias", "blocks.0.attn.v_bias"), _convert,
    marks=("blocks.0.attn.q_bias", "blocks.0.attn.v_bias"),
)  # fmt: skip
