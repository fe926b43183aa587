"""Google's JAX checkpoints, .npz: ViT and AugReg (Steiner et al. 2022, github.com/google-research/vision_transformer).

Kernels are (in, out), attention's (width, heads, head width); both are turned into torch's (out, in). Modules of a
block are counted together; big_vision, which is converted here too, counts those of a kind from 0 each, and may stack
its blocks along a first axis.

timm's own reader (`_load_weights`) is not used: it opens the path itself, needs JAX for bfloat16, does not say what it
left out, and resamples positions bilinearly.
"""

import re
from collections import defaultdict
from typing import Any

import torch

from gta.errors import GtaError
from gta.sources.checkpoints.siglip import HALF
from gta.sources.layout import Converted, Layout, Tensors

STEM = "embedding/kernel"
COMMON = (STEM, "embedding/bias", "Transformer/encoder_norm/scale")
_POSITIONS = "Transformer/posembed_input/pos_embedding"
_STACKED = "Transformer/encoderblock/"
_MODULE = re.compile(r"(?:Transformer/encoderblock_(\d+)|MAPHead_0)/(.+)")
_NAMES = {
    "embedding/bias": "patch_embed.proj.bias",
    "cls": "cls_token",
    _POSITIONS: "pos_embed",
    "pos_embedding": "pos_embed",
    "Transformer/encoder_norm/scale": "norm.weight",
    "Transformer/encoder_norm/bias": "norm.bias",
    "head/bias": "head.bias",
}


def convert(tensors: Tensors) -> Converted:
    """AugReg's, big_vision's or SigLIP's tensors under timm's names.

    Raises:
        GtaError: a hybrid, whose patches come out of a ResNet.
    """
    if "conv_root/kernel" in tensors:
        raise GtaError("this is a hybrid: its patches come out of a ResNet (conv_root/kernel). Use a plain ViT's file.")
    out: Tensors = {"patch_embed.proj.weight": tensors[STEM].permute(3, 2, 0, 1)}
    out |= {ours: tensors[key] for key, ours in _NAMES.items() if key in tensors}
    if "head/kernel" in tensors:
        out["head.weight"] = tensors["head/kernel"].T
    args: dict[str, Any] = {}
    modules: defaultdict[str, Tensors] = defaultdict(dict)
    for key, value in _unstacked(tensors).items():
        if match := _MODULE.fullmatch(key):
            modules[f"blocks.{match[1]}." if match[1] else "attn_pool."][match[2]] = value
            if match[1] and key.endswith("/query/kernel"):
                args["num_heads"] = value.shape[1]
    for at, theirs in modules.items():
        out |= {at + name: value for name, value in _module(theirs, pooling=at == "attn_pool.").items()}
    if "attn_pool." in modules:
        return Converted(out, "vit_base_patch16_siglip_224", args | {"global_pool": "map"}, HALF, HALF)
    return Converted(out, None, args, HALF, HALF)


def _unstacked(tensors: Tensors) -> Tensors:
    """Blocks stacked along a first axis, apart."""
    out = {k: v for k, v in tensors.items() if not k.startswith(_STACKED)}
    for key in tensors.keys() - out.keys():
        name = key.removeprefix(_STACKED)
        out |= {f"Transformer/encoderblock_{number}/{name}": value for number, value in enumerate(tensors[key])}
    return out


def _module(theirs: Tensors, pooling: bool) -> Tensors:
    """A block, or SigLIP's pooling by attention of a learned query (`probe`)."""
    attention = "" if pooling else "attn."
    out: Tensors = {}
    parts: Tensors = {}  # of attention: query, key, value
    for key, value in theirs.items():
        module, _, inner = key.partition("/")
        layer, _, kind = inner.rpartition("/")
        suffix = "bias" if kind == "bias" else "weight"
        if module == "probe":
            out["latent"] = value
        elif module.startswith("LayerNorm"):
            out[f"{'norm' if pooling else 'norm1' if module.endswith('_0') else 'norm2'}.{suffix}"] = value
        elif layer in ("query", "key", "value"):
            parts[f"{layer}.{suffix}"] = value.flatten(1).T if kind == "kernel" else value.flatten()
        else:
            name = {"out": f"{attention}proj", "Dense_0": "mlp.fc1", "Dense_1": "mlp.fc2"}[layer]
            out[f"{name}.{suffix}"] = value.flatten(0, -2).T if kind == "kernel" else value
    for suffix in ("weight", "bias"):
        q, k, v = (parts[f"{part}.{suffix}"] for part in ("query", "key", "value"))
        if pooling:
            out |= {f"q.{suffix}": q, f"kv.{suffix}": torch.cat([k, v])}
        else:
            out[f"attn.qkv.{suffix}"] = torch.cat([q, k, v])
    return out


LAYOUT = Layout(
    "AugReg's .npz",
    convert,
    STEM,
    (_POSITIONS,),
    typical_keys=(*COMMON, "cls", _POSITIONS, "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"),
)
