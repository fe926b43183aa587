"""Google's JAX checkpoints, .npz: ViT and AugReg (Steiner et al. 2022, github.com/google-research/vision_transformer),
and big_vision's (github.com/google-research/big_vision), the image tower of SigLIP (Zhai et al. 2023) among them.

Kernels are (in, out) and attention's (width, heads, head width); both are turned into torch's (out, in). big_vision
counts modules of a kind from 0 each, AugReg all modules of a block, and SigLIP's blocks may be stacked along a first
axis. Images are normalised by mean and deviation 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gta.errors import GtaError
from gta.sources.checkpoints.layout import Converted, Layout, Tensors

_HALF = (0.5, 0.5, 0.5)
_STEM = "embedding/kernel"
_ATTENTION, _MLP = "MultiHeadDotProductAttention", "MlpBlock"


def _convert(tensors: Tensors) -> Converted:
    if "conv_root/kernel" in tensors:
        raise GtaError("this is a hybrid: its patches come out of a ResNet (conv_root/kernel). Use a plain ViT's file.")
    theirs = _unstacked(tensors)
    out: Tensors = {"patch_embed.proj.weight": theirs[_STEM].permute(3, 2, 0, 1)}
    plain = {
        "embedding/bias": "patch_embed.proj.bias",
        "cls": "cls_token",
        "Transformer/posembed_input/pos_embedding": "pos_embed",
        "pos_embedding": "pos_embed",
        "Transformer/encoder_norm/scale": "norm.weight",
        "Transformer/encoder_norm/bias": "norm.bias",
        "head/bias": "head.bias",
    }
    out |= {ours: theirs[key] for key, ours in plain.items() if key in theirs}
    if "head/kernel" in theirs:
        out["head.weight"] = theirs["head/kernel"].T
    for number in sorted({int(k.split("/")[1][13:]) for k in theirs if k.startswith("Transformer/encoderblock_")}):
        at = f"Transformer/encoderblock_{number}/"
        block = {k.removeprefix(at): v for k, v in theirs.items() if k.startswith(at)}
        out |= {f"blocks.{number}.{k}": v for k, v in _block(block).items()}
    args: dict[str, object] = {}
    query = next((k for k in theirs if k.endswith("/query/kernel") and "encoderblock" in k), None)
    if query is not None:
        args["num_heads"] = theirs[query].shape[1]
    if any(k.startswith("MAPHead_0/") for k in theirs):
        pool = {k.removeprefix("MAPHead_0/"): v for k, v in theirs.items() if k.startswith("MAPHead_0/")}
        out |= {f"attn_pool.{k}": v for k, v in _pool(pool).items()}
        return Converted(out, "vit_base_patch16_siglip_224", {**args, "global_pool": "map"}, _HALF, _HALF)
    return Converted(out, None, args, _HALF, _HALF)


def _unstacked(tensors: Tensors) -> Tensors:
    """Blocks stacked along a first axis, apart."""
    at = "Transformer/encoderblock/"
    out = {k: v for k, v in tensors.items() if not k.startswith(at)}
    for key in (k for k in tensors if k.startswith(at)):
        for number, value in enumerate(tensors[key]):
            out[f"Transformer/encoderblock_{number}/{key.removeprefix(at)}"] = value
    return out


def _block(theirs: Tensors) -> Tensors:
    first, second = sorted({k.split("/")[0] for k in theirs if k.startswith("LayerNorm_")})[:2]
    attention = next(k.split("/")[0] for k in theirs if k.startswith(_ATTENTION))
    qkv = [_attention_in(theirs, f"{attention}/{part}") for part in ("query", "key", "value")]
    return {
        **_norm(theirs, first, "norm1"),
        "attn.qkv.weight": torch.cat([weight for weight, _ in qkv]),
        "attn.qkv.bias": torch.cat([bias for _, bias in qkv]),
        "attn.proj.weight": theirs[f"{attention}/out/kernel"].flatten(0, 1).T,
        "attn.proj.bias": theirs[f"{attention}/out/bias"],
        **_norm(theirs, second, "norm2"),
        **_mlp(theirs),
    }


def _pool(theirs: Tensors) -> Tensors:
    """SigLIP's pooling by attention of a learned query."""
    attention = next(k.split("/")[0] for k in theirs if k.startswith(_ATTENTION))
    (q, q_bias), (k, k_bias), (v, v_bias) = (
        _attention_in(theirs, f"{attention}/{p}") for p in ("query", "key", "value")
    )
    return {
        "latent": theirs["probe"],
        "q.weight": q,
        "q.bias": q_bias,
        "kv.weight": torch.cat([k, v]),
        "kv.bias": torch.cat([k_bias, v_bias]),
        "proj.weight": theirs[f"{attention}/out/kernel"].flatten(0, 1).T,
        "proj.bias": theirs[f"{attention}/out/bias"],
        **_norm(theirs, "LayerNorm_0", "norm"),
        **_mlp(theirs),
    }


def _attention_in(theirs: Tensors, at: str) -> tuple[Tensor, Tensor]:
    return theirs[f"{at}/kernel"].flatten(1).T, theirs[f"{at}/bias"].flatten()


def _norm(theirs: Tensors, at: str, name: str) -> Tensors:
    return {f"{name}.weight": theirs[f"{at}/scale"], f"{name}.bias": theirs[f"{at}/bias"]}


def _mlp(theirs: Tensors) -> Tensors:
    at = next(k.split("/")[0] for k in theirs if k.startswith(_MLP))
    return {
        f"mlp.fc{i + 1}.{ours}": theirs[f"{at}/Dense_{i}/{name}"].T
        if name == "kernel"
        else theirs[f"{at}/Dense_{i}/{name}"]
        for i in (0, 1)
        for ours, name in (("weight", "kernel"), ("bias", "bias"))
    }


_COMMON = (_STEM, "embedding/bias", "Transformer/encoder_norm/scale")
_AUGREG = ("cls", "Transformer/posembed_input/pos_embedding", "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel")
AUGREG = Layout(
    "AugReg's .npz", _STEM, _COMMON + _AUGREG, _convert, marks=("Transformer/posembed_input/pos_embedding",)
)
BIG_VISION = Layout("big_vision's .npz", _STEM, (*_COMMON, "pos_embedding"), _convert, marks=("pos_embedding",))
