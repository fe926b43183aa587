"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057, github.com/facebookresearch/moco-v3): `module.base_encoder.`.

The base encoder is taken, as in the authors' linear evaluation, not the momentum encoder. Its ViT-S has 12 heads of 32
channels, where others have 6 of 64.
"""

from gta.sources.layout import PLAIN, STEM, Converted, Layout, Tensors

_AT = "base_encoder."


def with_heads(tensors: Tensors) -> Converted:
    """The encoder's tensors, and its number of heads where it is not width / 64."""
    return Converted(tensors, args={"num_heads": 12} if tensors[STEM].shape[0] == 384 else {})


def _convert(tensors: Tensors) -> Converted:
    others = {k: v for k, v in tensors.items() if not k.startswith(_AT)}
    return with_heads(others | {k.removeprefix(_AT): v for k, v in tensors.items() if k.startswith(_AT)})


LAYOUT = Layout("MoCo v3", _convert, _AT + STEM, typical_keys=tuple(_AT + key for key in PLAIN))
