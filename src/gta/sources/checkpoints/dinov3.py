"""DINOv3 (Siméoni et al. 2025, arXiv 2508.10104, github.com/facebookresearch/dinov3): rotary positions, registers.

Built as timm's Eva class, and renamed by its `checkpoint_filter_fn`. q and v have a bias where it is not zero
throughout; that of k is masked by the authors.
"""

from gta.errors import GtaError
from gta.sources.layout import STEM, Converted, Layout, Tensors, count_blocks, mlp_ratio

_HEAD_WIDTHS = {4096: 128}  # 7B; 64 otherwise


def _convert(tensors: Tensors) -> Converted:
    import timm

    depth = count_blocks(tensors)
    width, _, patch, _ = tensors[STEM].shape
    biases = [k for k in tensors if k.endswith("attn.qkv.bias")]
    biased = any(tensors[k].any() for k in biases)
    gated = "blocks.0.mlp.w1.weight" in tensors
    base = f"vit_small{'_plus' if gated else ''}_patch16_dinov3{'_qkvb' if biased else ''}"
    if not timm.is_model(base):
        raise GtaError(f"DINOv3 needs a newer timm than {timm.__version__} (no {base}): pip install -U timm")
    args = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": max(1, width // _HEAD_WIDTHS.get(width, 64)),
        "mlp_ratio": mlp_ratio(tensors[f"blocks.0.mlp.{'w3' if gated else 'fc2'}.weight"].shape[1], width),
        "num_reg_tokens": tensors["storage_tokens"].shape[1],
        "global_pool": "token",
        "dynamic_img_size": False,
        "img_size": 14 * patch,
    }
    # timm would print a line for each bias that its model does not have
    return Converted({k: v for k, v in tensors.items() if biased or k not in biases}, base, args)


_REQUIRED = ("storage_tokens", "rope_embed.periods")
_TYPICAL = ("cls_token", *_REQUIRED, STEM, "blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma")
LAYOUT = Layout("DINOv3", _convert, required_keys=_REQUIRED, typical_keys=_TYPICAL)
