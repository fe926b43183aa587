"""iBOT's student (Zhou et al. 2022, github.com/bytedance/ibot): its mask token is of use in pre-training only."""

from gta.sources.layout import Converted, Layout, Tensors


def _convert(tensors: Tensors) -> Converted:
    return Converted({k: v for k, v in tensors.items() if k != "masked_embed"})


LAYOUT = Layout("iBOT's student", _convert, required_keys=("masked_embed",))
