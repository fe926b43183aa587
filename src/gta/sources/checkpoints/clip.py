"""The image tower of CLIP (Radford et al. 2021, github.com/openai/CLIP) and OpenCLIP, among the keys `visual.`.

OpenAI's models have QuickGELU, most of OpenCLIP's have GELU, and no key tells: OpenAI's files are known by the
`input_resolution` and `context_length` they carry. For others GELU is taken, with a warning. SigLIP (Zhai et al. 2023)
under timm's names, as OpenCLIP's `visual.trunk.` too, pools by attention.
"""

from __future__ import annotations

from gta.sources.checkpoints.layout import PLAIN, STEM, Converted, Layout, Tensors

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)
_GUESS = (
    "no key of it says whether it has GELU or QuickGELU: GELU is taken. If it is OpenAI's, MetaCLIP's or DFN's, save "
    "it as .safetensors with the metadata architecture, such as vit_base_patch16_clip_quickgelu_224"
)
_NAMES = (
    ("conv1.", "patch_embed.proj."),
    ("transformer.resblocks.", "blocks."),
    ("attn.in_proj_", "attn.qkv."),
    ("attn.out_proj.", "attn.proj."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)


def _convert(tensors: Tensors) -> Converted:
    out: Tensors = {k: v for k, v in tensors.items() if not k.startswith("visual.")}
    for key, value in tensors.items():
        if not key.startswith("visual."):
            continue
        name = key.removeprefix("visual.")
        if name == "class_embedding":
            out["cls_token"] = value[None, None]
        elif name == "positional_embedding":
            out["pos_embed"] = value[None]
        elif name == "proj":
            out["head.weight"] = value.T
        else:
            for theirs, timms in _NAMES:
                name = name.replace(theirs, timms)
            out[name] = value
    quick = "input_resolution" in tensors
    base = f"vit_base_patch16_clip_{'quickgelu_' if quick else ''}224"
    return Converted(out, base, {"pre_norm": True}, _MEAN, _STD, "" if quick else _GUESS)


CLIP = Layout(
    "CLIP's image tower",
    "visual.class_embedding",
    (
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.conv1.weight",
        "visual.ln_pre.weight",
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        "visual.ln_post.weight",
    ),
    _convert,
    marks=("visual.conv1.weight",),
)
SIGLIP = Layout(
    "SigLIP under timm's names",
    STEM,
    (*PLAIN[1:], "attn_pool.latent"),
    lambda tensors: Converted(tensors, "vit_base_patch16_siglip_224", {"global_pool": "map"}, _HALF, _HALF),
    marks=("attn_pool.latent",),
)
