"""Why the attention logits of a model cannot be read, told before wrong numbers are used."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gta.errors import GtaError
from gta.vit.structure import ViTInfo, parameters_before_row


class _AttentionCapture(Protocol):
    info: ViTInfo
    layers: Sequence[int]
    rows: Any
    first_key: int
    calls: int
    on_complete: Any


def check_fused(info: ViTInfo, layers: Sequence[int]) -> None:
    """Raise GtaError where a layer up to the last of `layers` is set not to use fused attention."""
    for layer, attention in enumerate(info.attentions[: max(layers) + 1]):
        if getattr(attention, "fused_attn", True) is False:
            raise GtaError(
                f"read 0 attention rows of layer {layer} of {info.name}: it does not use fused attention. Set "
                "`fused_attn = True` on its attention layers, or unset TIMM_FUSED_ATTN=0."
            )


def check_maskless(layer: int, query: Tensor, attn_mask: Tensor | None, is_causal: bool) -> None:
    """Raise GtaError for a call of attention whose logits are no rows over all patches."""
    if query.ndim != 4:
        raise GtaError(
            f"layer {layer} folds heads or windows into the batch (its q is {tuple(query.shape)}, where (images, "
            "heads, tokens, width) is needed), as SAM's encoder does; such attention cannot be guided."
        )
    if is_causal or (attn_mask is not None and attn_mask.dtype == torch.bool):
        raise GtaError(
            f"layer {layer} masks its attention ({'causal' if is_causal else tuple(attn_mask.shape)}): a row of "  # type: ignore[union-attr]
            "logits that are partly thrown away cannot be guided. Use a model without a mask or bias of that kind."
        )


def check_captured(capture: _AttentionCapture, read: Sequence[Any], images: Tensor) -> None:
    """Raise GtaError unless there is one row of every layer, over all the patches, for every image."""
    info, stopped = capture.info, capture.on_complete is not None and capture.rows != "pool"
    if read and not stopped and capture.calls != info.depth:
        raise GtaError(
            f"{info.name} made {capture.calls} calls of scaled_dot_product_attention in its {info.depth} "
            "layers, so the rows cannot be told apart: every layer must use fused attention, once."
        )
    if capture.rows == "pool" and len(read) != 1:
        raise GtaError(
            f"{info.name} has no attention-pooling head with one query (one call expected, {len(read)} seen), so "
            'rows="pool" has nothing to guide: use rows="cls" or rows="patches".'
        )
    if len(read) != len(capture.layers):
        check_fused(info, capture.layers)
        if not capture.calls and _is_fused(info.attentions[0]):
            raise GtaError(
                f"read 0 attention rows of {info.name}, whose attention is fused: gradient checkpointing inside "
                "torch.compile hides it. Use one of the two; compiling alone saves memory too."
            )
        raise GtaError(
            f"read {len(read)} attention rows of {info.name} where {len(capture.layers)} layers are guided "
            f"({capture.calls} calls of scaled_dot_product_attention seen): its {type(info.attentions[0]).__name__} is "
            "linear attention or a custom kernel, whose q and k cannot be read. Use a model with softmax attention."
        )
    patches = info.patches(images)
    for layer, row in zip(capture.layers, read, strict=True):
        batch, keys = row.shape[0], row.shape[-1]
        wanted = None if patches is None else patches[0] * patches[1] + info.prefix_tokens - capture.first_key
        if batch != images.shape[0] or (wanted is not None and keys != wanted):
            raise GtaError(
                f"layer {layer} of {info.name} attends to {keys} tokens in {batch} groups, where {len(images)} images "
                f"have {wanted} each: attention inside windows, or merged or dropped tokens, cannot be guided."
            )


def check_gradient(info: ViTInfo, layers: Sequence[int], read: Sequence[Any], pool: bool) -> None:
    """Raise GtaError for a row without gradient although parameters that it depends on are trained."""
    if not torch.is_grad_enabled():
        return
    for layer, row in zip(layers, read, strict=True):
        before = parameters_before_row(info, info.depth if pool else layer)
        if not row.requires_grad and any(p.requires_grad for p in before):
            raise GtaError(
                f"the attention row of layer {layer} carries no gradient although parameters before it are "
                "trained, so the guide would do nothing. Reentrant gradient checkpointing does this: use "
                "use_reentrant=False."
            )


def _is_fused(attention: nn.Module) -> bool:
    """Whether the module is known to call scaled_dot_product_attention: of timm, torchvision or transformers."""
    known = isinstance(attention, nn.MultiheadAttention) or hasattr(attention, "fused_attn")
    return known or any(hasattr(module, "config") for module in attention.modules())
