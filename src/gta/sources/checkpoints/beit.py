"""BEiT (Bao et al. 2022) and SimMIM (Xie et al. 2022) where they are plain: q and v have a bias of their own, k none.

Their published models add a learned relative position bias to the attention logits, which plain ViTs do not have: those
are refused. timm's filter for BEiT keeps the biases apart, for a class of its own that has no fused attention logits to
compare; here they are joined, for timm's plain ViT.
"""

import torch

from gta.errors import GtaError
from gta.sources.layout import Converted, Layout, Tensors

_BIASES = ("blocks.0.attn.q_bias", "blocks.0.attn.v_bias")


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
    return Converted(renamed)


LAYOUT = Layout("BEiT or SimMIM", _convert, required_keys=_BIASES, precedence=4)
