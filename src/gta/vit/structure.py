"""The structure of a ViT, found without running it: where its attention layers stand, how its tokens are arranged.

Nothing here knows a library. A ViT, whoever wrote it, is a list of layers of which each has an attention module
with a number of heads; tokens put in front of the patches are parameters that are named so. timm, transformers,
torchvision and a user's own module around one of theirs all look alike from here.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gta.errors import GtaError

_ATTENTION = ("attn", "attention", "self_attn", "self_attention")
_CLS = ("cls_token", "class_token", "class_embedding")
_DISTILLATION = ("dist_token", "distillation_token")
_REGISTERS = ("reg_token", "register_tokens")
# what torch.compile and checkpoint_wrapper put into the names of parameters
_WRAPPED = re.compile(r"(_orig_mod|_checkpoint_wrapped_module)\.")
_STEM = re.compile(r"embed|(cls|class|dist|distillation|reg|register)_tokens?|conv_proj|norm_pre|pre_la?yr?norm")
_BEFORE_ROW = re.compile(
    r"(^|\.)(q|k|qkv|[qk]_(proj|norm|bias)|query|key|in_proj\w*|norm1|ln_1|layer_?norm(_before|1)|relative_position\w*)\b"
)


@dataclass(frozen=True)
class ViTInfo:
    """What must be known of a ViT before its rows can be read.

    Attributes:
        model: the ViT itself, out of the wrappers of torch.compile and DistributedDataParallel.
        name: its class.
        depth: number of attention layers.
        heads: attention heads per layer.
        prefix_tokens: tokens in front of the patches: [cls], distillation, registers.
        has_cls: whether the first token is a [cls] token.
        channels: of the images.
        stack: qualified name of the list of layers.
        attentions: the attention module of each layer.
        blocks: the layers themselves.
        sizes: what knows the size of images and patches: a module with `patch_embed` (timm), a transformers
            config, a module with `image_size` (torchvision), or None.
    """

    model: nn.Module
    name: str
    depth: int
    heads: int
    prefix_tokens: int
    has_cls: bool
    channels: int
    stack: str
    attentions: tuple[nn.Module, ...]
    blocks: tuple[nn.Module, ...]
    sizes: Any

    @property
    def grid(self) -> tuple[int, int] | None:
        """Patches (down, across), or None where the model takes images of several sizes."""
        embed = getattr(self.sizes, "patch_embed", None)
        if embed is not None:
            dynamic = getattr(self.sizes, "dynamic_img_size", False) or getattr(embed, "grid_size", None) is None
            return None if dynamic else _pair(embed.grid_size)
        if isinstance(self.sizes, nn.Module):
            (height, width), (down, across) = _pair(self.sizes.image_size), _pair(self.sizes.patch_size)
            return height // down, width // across
        return None

    def patches(self, images: Tensor) -> tuple[int, int] | None:
        """Patches (down, across) of images (B, C, height, width); None where the patch size is not known."""
        size = getattr(getattr(self.sizes, "patch_embed", self.sizes), "patch_size", None)
        if self.grid is not None or size is None:
            return self.grid
        (height, width), (down, across) = images.shape[-2:], _pair(size)
        if getattr(getattr(self.sizes, "patch_embed", None), "dynamic_img_pad", False):
            return math.ceil(height / down), math.ceil(width / across)
        return height // down, width // across

    def check(self, images: Tensor) -> None:
        """Raise GtaError unless the model can take these images, (B, C, height, width)."""
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise GtaError(
                f"images have shape {tuple(images.shape)}; the model takes (batch, {self.channels}, height, width)."
            )
        height, width = images.shape[-2:]
        embed = getattr(self.sizes, "patch_embed", None)
        if self.grid is not None:
            fits = tuple(embed.img_size) if embed is not None else _pair(self.sizes.image_size)
            if (height, width) != fits:
                raise GtaError(
                    f"images are {height}×{width} px but the model is built for {fits[0]}×{fits[1]} px. Resize the "
                    f"images, or build the model with img_size=({height}, {width})."
                )
        elif embed is not None and not getattr(embed, "dynamic_img_pad", False):
            down, across = _pair(embed.patch_size)
            if height % down or width % across:
                raise GtaError(
                    f"images are {height}×{width} px; the model takes sides that are multiples of its "
                    f"{down}×{across} px patches."
                )


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`'s and DistributedDataParallel's wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` has any part of the model."""
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())


def vit_info(model: nn.Module) -> ViTInfo:
    """Describe a ViT without running it.

    Raises:
        GtaError: the model has no plain stack of attention layers, or its attention does not go through
            `scaled_dot_product_attention`.
    """
    vit = unwrapped(model)
    name = type(vit).__name__
    stacks = dict(_stacks(vit))
    if len(stacks) != 1:
        raise GtaError(f"{name} cannot be guided: {_why_not(vit, stacks)} Use a plain Vision Transformer.")
    ((stack, blocks),) = stacks.items()
    attentions = tuple(attention for block in blocks if (attention := _attention(block)) is not None)
    heads = [_heads(attention) or 0 for attention in attentions]
    if len(set(heads)) != 1:
        raise GtaError(f"{name} cannot be guided: its layers have different numbers of heads, {heads}.")
    for attention in attentions:
        configs = (module.config for module in attention.modules() if hasattr(module, "config"))
        kernel = getattr(next(configs, None), "_attn_implementation", "sdpa")
        if kernel != "sdpa":
            raise GtaError(
                f"{name} cannot be guided with attn_implementation={kernel!r}: its rows are read where attention "
                'calls scaled_dot_product_attention. Load it with attn_implementation="sdpa", which is fused too.'
            )
    if getattr(getattr(vit, "config", None), "mask_ratio", None) is not None:
        raise GtaError(
            f"{name} cannot be guided: it shuffles its patches at random in every pass, so target and source never see "
            "the same. Use the encoder as a plain ViT: timm:vit_base_patch16_224.mae, or the authors' checkpoint file."
        )
    has_cls, prefix = _tokens(vit, stack)
    conv = next((m for m in vit.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if conv is None else conv.in_channels
    return ViTInfo(
        vit, name, len(heads), heads[0], prefix, has_cls, channels, stack, attentions, blocks, _sizes(vit, stack)
    )


def resolve_layers(layers: str | int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Layer indices, ascending and non-negative.

    Args:
        layers: "all", "last", one index, or several; negative ones count from the end.
        depth: number of layers the model has.

    Raises:
        GtaError: an index outside -depth … depth-1, no index at all, or another word.
    """
    if isinstance(layers, str):
        if layers == "all":
            return tuple(range(depth))
        if layers == "last":
            return (depth - 1,)
        raise GtaError(f'layers={layers!r} is not known: write "all", "last" or a list of indices like [0, -1].')
    indices = [layers] if isinstance(layers, int) else list(layers)
    if not indices:
        raise GtaError('layers=[] guides nothing: write "all", "last" or at least one index.')
    for index in indices:
        if not isinstance(index, int) or isinstance(index, bool) or not -depth <= index < depth:
            raise GtaError(
                f"layers has {index!r}, but the model has {depth} layers: use integers from {-depth} to {depth - 1}."
            )
    return tuple(sorted({index % depth for index in indices}))


def parameters_before_row(info: ViTInfo, layer: int) -> Iterator[nn.Parameter]:
    """The parameters a layer's row depends on: the stem, all layers before, this layer's norm, q and k."""
    for name, parameter in info.model.named_parameters():
        name = _WRAPPED.sub("", name)
        if not name.startswith(f"{info.stack}."):
            if _STEM.search(name):
                yield parameter
            continue
        index, _, inner = name.removeprefix(f"{info.stack}.").partition(".")
        index = re.sub(r"\D", "", index)  # torchvision: encoder_layer_0
        if int(index) < layer or (int(index) == layer and _BEFORE_ROW.search(inner)):
            yield parameter


# --- where the layers are ---------------------------------------------------------------------------------


def _stacks(vit: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, ...]]]:
    """Every list of modules that all have attention with heads: qualified name and the modules."""
    for name, module in vit.named_modules():
        listed = isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 0
        if listed and all(_attention(block) is not None for block in module):
            yield _WRAPPED.sub("", name), tuple(module)


def _attention(layer: nn.Module) -> nn.Module | None:
    for name in _ATTENTION:
        attention = getattr(layer, name, None)
        if isinstance(attention, nn.Module) and _heads(attention) is not None:
            return attention
    return None


def _heads(attention: nn.Module) -> int | None:
    for module in attention.modules():
        for name in ("num_heads", "num_attention_heads"):
            heads = getattr(module, name, None)
            if isinstance(heads, int):
                return heads
    return None


def _why_not(vit: nn.Module, stacks: dict[str, tuple[nn.Module, ...]]) -> str:
    if any(getattr(module, "window_size", None) for module in vit.modules()):
        return "its attention works inside windows, so no token's row reaches over the image."
    if len(stacks) > 1:
        return f"it has {len(stacks)} stacks of attention layers ({', '.join(stacks)}), where one is needed."
    if any(_heads(module) is not None for module in vit.modules()):
        return "its attention layers are no plain list in which each has one self-attention over all tokens."
    return "it has no attention layers with heads (convolution, mixing or linear attention)."


def _owner(vit: nn.Module, stack: str, attribute: str) -> nn.Module | None:
    """The nearest module around the stack that has the attribute."""
    path = stack.split(".")
    for end in range(len(path) - 1, -1, -1):
        try:
            module = vit.get_submodule(".".join(path[:end]))
        except AttributeError:  # a wrapper was left out of the name
            continue
        if getattr(module, attribute, None) is not None:
            return module
    return None


# --- how the tokens are arranged --------------------------------------------------------------------------


def _tokens(vit: nn.Module, stack: str) -> tuple[bool, int]:
    """Whether there is a [cls] token, and the number of tokens in front of the patches."""
    shapes = {name.rpartition(".")[2]: parameter.shape for name, parameter in vit.named_parameters()}
    has_cls = any(name in shapes for name in _CLS)
    owner: Any = _owner(vit, stack, "num_prefix_tokens")
    if owner is not None:  # timm
        return has_cls or getattr(owner, "cls_token", None) is not None, int(owner.num_prefix_tokens)
    registers = sum(shapes[name][-2] for name in _REGISTERS if name in shapes)
    return has_cls, has_cls + any(name in shapes for name in _DISTILLATION) + registers


def _sizes(vit: nn.Module, stack: str) -> Any:
    timm, transformers, torchvision = (_owner(vit, stack, a) for a in ("patch_embed", "config", "image_size"))
    if timm is not None:
        return timm
    if transformers is not None and hasattr(transformers.config, "patch_size"):
        return transformers.config
    return torchvision if hasattr(torchvision, "patch_size") else None


def _pair(size: Any) -> tuple[int, int]:
    down, across = (size, size) if isinstance(size, int) else size
    return int(down), int(across)
