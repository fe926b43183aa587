"""SigLIP (Zhai et al. 2023) under timm's names, as OpenCLIP's `visual.trunk.` too: pools by attention, has no [cls]."""

from gta.sources.layout import PLAIN, Converted, Layout, Tensors

HALF = (0.5, 0.5, 0.5)  # mean and standard deviation of Google's images


def _convert(tensors: Tensors) -> Converted:
    return Converted(tensors, "vit_base_patch16_siglip_224", {"global_pool": "map"}, HALF, HALF)


LAYOUT = Layout(
    "SigLIP under timm's names", _convert, required_keys=("attn_pool.latent",), typical_keys=PLAIN[1:]
)  # fmt: skip
