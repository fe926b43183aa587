"""Read the [cls] attention row of every layer of a ViT while its attention stays fused.

All plain ViTs hand their final q and k (after query/key normalisation and rotary embedding) to
`torch.nn.functional.scaled_dot_product_attention`. A `RowTap` stands at that one call: it takes q of the
[cls] token and k of the patches, makes one (B,H,1,d)x(B,H,d,N) product, and lets the fused kernel go on. No
N×N map is built and no layer of the model is replaced.

Rows are the *scaled pre-softmax logits* q·kᵀ·scale, (B, H, N) float32 per layer, prefix tokens ([cls],
distillation, registers) left out unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gta.errors import GtaError


@dataclass(frozen=True)
class Anatomy:
    """What must be known of a ViT before its rows can be read.

    Attributes:
        depth: number of attention layers.
        heads: attention heads per layer.
        prefix_tokens: tokens in front of the patches: [cls], distillation, registers.
        grid: patches (down, across), or None where the model takes images of any size.
    """

    depth: int
    heads: int
    prefix_tokens: int
    grid: tuple[int, int] | None


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`'s and DistributedDataParallel's wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def anatomy(model: nn.Module) -> Anatomy:
    """Describe a timm ViT without running it.

    Raises:
        GtaError: the model is no plain ViT, or has no [cls] token to read a row of.
    """
    vit = unwrapped(model)
    name = type(vit).__name__
    blocks = getattr(vit, "blocks", None)
    heads = [getattr(getattr(block, "attn", None), "num_heads", None) for block in blocks or ()]
    if not heads or not all(isinstance(h, int) for h in heads) or not hasattr(vit, "patch_embed"):
        raise GtaError(
            f"{name} cannot be guided: it is no plain Vision Transformer (no `blocks` with `attn.num_heads` "
            "behind a `patch_embed`). Use a ViT, DeiT, DINO or DINOv2 model of timm."
        )
    if len(set(heads)) != 1:
        raise GtaError(f"{name} cannot be guided: its layers have different numbers of heads, {heads}.")
    if getattr(vit, "cls_token", None) is None:
        raise GtaError(
            f"{name} has no [cls] token (cls_token is None), so there is no [cls] attention to guide. "
            'Use a model with class_token=True (global_pool="avg" may stay).'
        )
    prefix = int(getattr(vit, "num_prefix_tokens", 1))
    dynamic = bool(getattr(vit, "dynamic_img_size", False))
    grid = None if dynamic else tuple(int(n) for n in vit.patch_embed.grid_size)  # type: ignore[union-attr]
    return Anatomy(len(heads), int(heads[0]), prefix, grid)  # type: ignore[arg-type]


def check_images(model: nn.Module, images: Tensor) -> None:
    """Raise GtaError unless the model can take these images, (B, C, height, width)."""
    vit: Any = unwrapped(model)
    embed = vit.patch_embed
    channels = embed.proj.weight.shape[1] if hasattr(embed, "proj") else 3
    if images.ndim != 4 or images.shape[1] != channels:
        raise GtaError(f"images have shape {tuple(images.shape)}; the model takes (batch, {channels}, height, width).")
    height, width = images.shape[-2:]
    if getattr(vit, "dynamic_img_size", False):
        down, across = embed.patch_size
        if not getattr(embed, "dynamic_img_pad", False) and (height % down or width % across):
            raise GtaError(
                f"images are {height}×{width} px; the model takes sides that are multiples of its "
                f"{down}×{across} px patches."
            )
    elif getattr(embed, "img_size", None) is not None and (height, width) != tuple(embed.img_size):
        raise GtaError(
            f"images are {height}×{width} px but the model is built for "
            f"{embed.img_size[0]}×{embed.img_size[1]} px. Resize the images, or build the model with "
            f"img_size=({height}, {width})."
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


class _Enough(BaseException):
    """Raised inside a forward pass that has given all the rows it was run for."""


class RowTap(TorchFunctionMode):
    """While entered, collects the [cls] rows of the chosen layers from a model's forward pass.

    Attributes:
        calls: attention calls seen.
    """

    def __init__(self, layers: Sequence[int], first_key: int, stop: bool = False) -> None:
        """
        Args:
            layers: ascending indices of the layers to read.
            first_key: first key column kept: the number of prefix tokens, or 0 to keep those too.
            stop: leave the forward pass (raising `_Enough`) once the last chosen layer is read.
        """
        super().__init__()
        self._layers = frozenset(layers)
        self._last = max(layers)
        self._first_key = first_key
        self.stop = stop
        self._read: list[Callable[[], Tensor]] = []
        self.calls = 0

    def rows(self) -> list[Tensor]:
        """After the forward pass, one (B, H, N) float32 tensor per chosen layer, in layer order."""
        return [read() for read in self._read]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **unused: Any,
    ) -> None:
        if query.shape[-2] != key.shape[-2]:
            return  # an attention-pooling head, not a layer
        layer = self.calls
        self.calls += 1
        if layer in self._layers:
            if attn_mask is not None:
                raise GtaError(
                    f"layer {layer} adds a mask or bias of shape {tuple(attn_mask.shape)} to its attention "
                    "logits; models with such a bias cannot be guided yet. Use one without."
                )
            read = partial(_row, query[:, :, :1], key[:, :, self._first_key :], scale)
            if not torch.is_grad_enabled():
                # nothing else keeps q and k alive, so only the row is kept
                row = read()
                self._read.append(lambda: row)
            else:
                # The product waits for the end of the forward pass: made here, inside a checkpointed block, it
                # would save tensors that the block's recomputation (which nobody taps) does not save.
                self._read.append(read)
        if self.stop and layer == self._last:
            raise _Enough


def _row(cls: Tensor, keys: Tensor, scale: float | None) -> Tensor:
    # float32 also under autocast: the difference of two close rows would drown in bf16's three digits
    with torch.autocast(cls.device.type, enabled=False):
        scaled = cls.float() * (cls.shape[-1] ** -0.5 if scale is None else scale)
        return (scaled @ keys.float().transpose(-2, -1)).squeeze(-2)


def read_rows(model: nn.Module, images: Tensor, layers: Sequence[int], first_key: int) -> list[Tensor]:
    """The rows of `layers` (ascending), without autograd; runs the model no further than the last of them.

    Args:
        model: a ViT; run in whatever mode (train or eval) it is in.
        images: (B, C, height, width).
        layers: ascending layer indices.
        first_key: first key column kept, see `RowTap`.

    Returns:
        One (B, H, N) float32 tensor per layer.
    """
    tap = RowTap(layers, first_key, stop=True)
    try:
        with torch.no_grad(), tap:
            model(images)
    except _Enough:
        pass
    return captured_rows(tap, model, layers)


def captured_rows(tap: RowTap, model: nn.Module, layers: Sequence[int]) -> list[Tensor]:
    """The tap's rows; GtaError unless there is one of every layer and, after a whole pass, one call per layer."""
    rows = tap.rows()
    depth = anatomy(model).depth
    if rows and not tap.stop and tap.calls != depth:
        raise GtaError(
            f"{type(unwrapped(model)).__name__} made {tap.calls} calls of scaled_dot_product_attention in its {depth} "
            "layers, so the rows cannot be told apart: every layer must use fused attention, once."
        )
    if len(rows) != len(layers):
        raise GtaError(
            f"read {len(rows)} attention rows of {type(unwrapped(model)).__name__} where {len(layers)} layers "
            f"are guided ({tap.calls} calls of scaled_dot_product_attention seen). The model must use fused "
            "attention: set `fused_attn = True` on its attention layers, or unset TIMM_FUSED_ATTN=0."
        )
    return rows


def parameters_before_row(model: nn.Module, layer: int) -> Iterator[nn.Parameter]:
    """The parameters a layer's row depends on: the stem, all blocks before, this block's norm, q and k."""
    vit: Any = unwrapped(model)
    for name, parameter in vit.named_parameters():
        part, _, rest = name.partition(".")
        if part == "blocks":
            index, _, inner = rest.partition(".")
            if int(index) < layer or (
                int(index) == layer and inner.startswith(("norm1.", "attn.q", "attn.k", "attn.in_proj"))
            ):
                yield parameter
        elif part in ("cls_token", "reg_token", "dist_token", "pos_embed", "patch_embed", "norm_pre"):
            yield parameter
