"""The image tower of CLIP (Radford et al. 2021, github.com/openai/CLIP) and OpenCLIP, among the keys `visual.`.

OpenAI's models have QuickGELU, most of OpenCLIP's have GELU, and no key tells: OpenAI's files are known by the
`input_resolution` and `context_length` they carry. For others GELU is taken, with a warning.
"""

from typing import Any

from gta.sources.layout import Converted, Layout, Tensors

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_GUESS = (
    "no key of it says whether it has GELU or QuickGELU: GELU is taken. If it is OpenAI's, MetaCLIP's or DFN's, save "
    "it as .safetensors with the metadata architecture, such as vit_base_patch16_clip_quickgelu_224"
)


def _convert(tensors: Tensors) -> Converted:
    from timm.models.vision_transformer import _convert_openai_clip

    unused: Any = None  # the model
    out = _convert_openai_clip(tensors, unused)
    out.pop("head.bias", None)  # zeros that it adds
    out = {k: v for k, v in tensors.items() if not k.startswith("visual.")} | out
    quick = "input_resolution" in tensors
    base = f"vit_base_patch16_clip_{'quickgelu_' if quick else ''}224"
    return Converted(out, base, {"pre_norm": True}, _MEAN, _STD, "" if quick else _GUESS)


_KEYS = "positional_embedding conv1.weight ln_pre.weight transformer.resblocks.0.attn.in_proj_weight ln_post.weight"
LAYOUT = Layout(
    "CLIP's image tower",
    _convert,
    landmark="visual.class_embedding",
    required_keys=("visual.conv1.weight",),
    typical_keys=tuple(f"visual.{key}" for key in _KEYS.split()),
)
