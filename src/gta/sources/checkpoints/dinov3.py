"""DINOv3 (Siméoni et al. 2025, arXiv 2508.10104, github.com/facebookresearch/dinov3): rotary positions, registers.

Read by timm's Eva class. q and v have a bias where it is not zero throughout; that of k is masked by the authors.
"""

from __future__ import annotations

from gta.errors import GtaError
from gta.sources.checkpoints.layout import STEM, Converted, Layout, Tensors, mlp_ratio

_HEAD_WIDTHS = {4096: 128}  # 7B; 64 otherwise


def _convert(tensors: Tensors) -> Converted:
    import timm

    width, _, patch, _ = tensors[STEM].shape
    biased = any(tensors[k].any() for k in tensors if k.endswith("attn.qkv.bias"))
    gated = "blocks.0.mlp.w1.weight" in tensors
    base = f"vit_small{'_plus' if gated else ''}_patch16_dinov3{'_qkvb' if biased else ''}"
    if not timm.is_model(base):
        raise GtaError(f"DINOv3 needs a newer timm than {timm.__version__} (no {base}): pip install -U timm")
    renamed: Tensors = {}
    for key, value in tensors.items():
        if key in ("mask_token", "rope_embed.periods") or key.endswith("bias_mask") or key.startswith("local_cls_norm"):
            continue  # of pre-training, or computed
        if key.endswith("attn.qkv.bias"):
            if biased:
                q, _, v = value.chunk(3)
                renamed[key.replace("qkv.bias", "q_bias")] = q
                renamed[key.replace("qkv.bias", "v_bias")] = v
            continue
        for theirs, timms in _NAMES:
            key = key.replace(theirs, timms)
        renamed[key] = value
    hidden = renamed["blocks.0.mlp.fc2.weight"].shape[1]
    depth = 1 + max(int(k.split(".")[1]) for k in renamed if k.startswith("blocks."))
    args = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": max(1, width // _HEAD_WIDTHS.get(width, 64)),
        "mlp_ratio": mlp_ratio(hidden, width),
        "num_reg_tokens": renamed["reg_token"].shape[1],
        "global_pool": "token",
        "dynamic_img_size": False,
        "img_size": 14 * patch,
    }
    return Converted(renamed, base, args)


_NAMES = (
    ("storage_tokens", "reg_token"),
    ("ls1.gamma", "gamma_1"),
    ("ls2.gamma", "gamma_2"),
    ("mlp.w1.", "mlp.fc1_g."),
    ("mlp.w2.", "mlp.fc1_x."),
    ("mlp.w3.", "mlp.fc2."),
)

DINOV3 = Layout(
    "DINOv3",
    STEM,
    ("cls_token", "storage_tokens", "rope_embed.periods", STEM, "blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma"),
    _convert,
    marks=("storage_tokens", "rope_embed.periods"),
)
