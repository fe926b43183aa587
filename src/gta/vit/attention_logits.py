"""Read the attention rows of every layer of a ViT while its attention stays fused.

All plain ViTs hand their final q and k (after query/key normalisation and rotary embedding) to
`torch.nn.functional.scaled_dot_product_attention`. A `RowTap` stands at that one call: it takes q of the
[cls] token and k of the patches, makes one (B,H,1,d)x(B,H,d,N) product, and lets the fused kernel go on. No
N×N map is built and no layer of the model is replaced.

Rows are the *scaled pre-softmax logits* q·kᵀ·scale (plus the layer's position bias where it has one),
(B, H, N) float32 per layer, prefix tokens ([cls], distillation, registers) left out unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from gta.errors import GtaError
from gta.vit.structure import Anatomy, anatomy, is_compiled, unwrapped

__all__ = ["Anatomy", "Factors", "Reading", "RowTap", "anatomy", "captured", "read_rows", "resolve_layers", "unwrapped"]

Queries = Literal["cls", "patches", "all", "pool"]  # "all" is "patches": the whole map


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


class Factors(NamedTuple):
    """Rows not yet multiplied out.

    Attributes:
        q: (B, H, Q, d), the queries whose rows are wanted, in the model's dtype.
        k: (B, H, N, d), the keys they are compared with.
        scale: of the logits.
        bias: what the layer adds to its logits, (…, Q, N), or None.
    """

    q: Tensor
    k: Tensor
    scale: float
    bias: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows: (B, H, N), or (B, H, Q, N) of several queries."""
        batch, heads, queries, _ = self.q.shape
        return (batch, heads, self.k.shape[2]) if queries == 1 else (batch, heads, queries, self.k.shape[2])

    @property
    def has_gradient(self) -> bool:
        return self.q.requires_grad or self.k.requires_grad

    def scaled(self) -> tuple[Tensor, Tensor]:
        """q·scale and k in float32; their product is `rows()` less the bias."""
        with torch.autocast(self.q.device.type, enabled=False):
            return self.q.float() * self.scale, self.k.float()

    def rows(self) -> Tensor:
        """Scaled logits, float32."""
        # float32 also under autocast: the difference of two close rows would drown in bf16's three digits
        with torch.autocast(self.q.device.type, enabled=False):
            if self.q.shape[-2] == 1:
                rows = _row(self.q, self.k, self.scale).unsqueeze(-2)
            else:
                q, k = self.scaled()
                rows = q @ k.transpose(-2, -1)
            if self.bias is not None:
                rows = rows + self.bias.float()
        return rows.squeeze(-2)


class Finished(NamedTuple):
    """Rows (B, H, N) float32, of one query."""

    product: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.product.shape)

    @property
    def has_gradient(self) -> bool:
        return self.product.requires_grad

    def rows(self) -> Tensor:
        return self.product


Reading = Factors | Finished


class _Enough(BaseException):
    """Raised inside a forward pass that has given all the rows it was run for."""


class RowTap(TorchFunctionMode):
    """While entered, collects the rows of the chosen layers from a model's forward pass.

    Attributes:
        calls: calls of self-attention seen.
        read: one reading per chosen layer, in the order of the calls.
    """

    def __init__(
        self,
        layers: Sequence[int],
        first_key: int,
        stop: bool = False,
        queries: Queries = "cls",
        hide: bool = False,
        convolution: Callable[..., Tensor] | None = None,
    ) -> None:
        """
        Args:
            layers: ascending indices of the layers to read; of no meaning for "pool".
            first_key: first key column kept: the number of prefix tokens, or 0 to keep those too.
            stop: leave the forward pass (raising `_Enough`) once the last chosen layer is read.
            queries: "cls" for the first token's row, "patches" for the rows of all tokens from `first_key` on,
                "pool" for the row of an attention-pooling head.
            hide: do not let the taps entered before this one see the attention calls: they wait for the target's.
            convolution: makes the convolutions, as `F.conv2d` (see `gta.acceleration.stem`).
        """
        super().__init__()
        self._layers = frozenset(layers)
        self._last = max(layers)
        self.first_key = first_key
        self.queries = queries
        self._hide = hide
        self._convolution = convolution
        self._batch: int | None = None  # of the nn.MultiheadAttention that runs just now
        self.stop = stop
        self.read: list[Reading] = []
        self.calls = 0

    def rows(self) -> list[Tensor]:
        """After the forward pass, one (B, H, N) or (B, H, Q, N) float32 tensor per chosen layer, in layer order."""
        return [reading.rows() for reading in self.read]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = self.attention(*args, **kwargs)
            given = {"query": query, "key": key}
            args, kwargs = (query, key, *args[2:])[: len(args)], {k: given.get(k, v) for k, v in kwargs.items()}
        elif func is F.multi_head_attention_forward:
            self._batch = args[0].shape[1]
            with self:
                out = _multi_head_attention_forward(*args, **kwargs)
            self._batch = None
            return out
        elif func is F.softmax and self.queries == "pool" and self._batch is not None:
            self._unfused_pool(args[0], self._batch)
        elif func is F.conv2d and self._convolution is not None and not kwargs and not torch.compiler.is_compiling():
            return self._convolution(*args)
        if func is F.scaled_dot_product_attention and self._hide and not torch.compiler.is_compiling():
            with torch._C.DisableTorchFunction():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **unused: Any,
    ) -> tuple[Tensor, Tensor]:
        """Read what is wanted; the query and key for attention to go on with."""
        if query.shape[-2] != key.shape[-2]:  # an attention-pooling head, not a layer
            if self.queries == "pool":
                self._keep(Factors(query, key[:, :, self.first_key :], _scale(query, scale), None))
            return query, key
        layer = self.calls
        self.calls += 1
        if self.queries == "pool" or layer not in self._layers:
            return query, key
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
        start = self.first_key
        which = slice(0, 1) if self.queries == "cls" else slice(start, None)
        bias = None
        if attn_mask is not None:
            tokens = query.shape[-2]
            bias = attn_mask.expand(*attn_mask.shape[:-2], tokens, tokens)[..., which, start:]
        keys = key
        if key.shape[1] != query.shape[1]:  # grouped queries share a key
            keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        elif self.queries == "cls" and bias is None and _needs_gradient(query, key):
            query, key, row = _RowBeside.apply(query, key, _scale(query, scale), start)  # type: ignore[no-untyped-call]
            self.read.append(Finished(row))
            return query, key
        self._keep(Factors(query[:, :, which], keys[:, :, start:], _scale(query, scale), bias))
        if self.stop and layer == self._last:
            raise _Enough
        return query, key

    def _keep(self, factors: Factors) -> None:
        # Without autograd nothing else keeps q and k alive, so only the row is kept; torch.compile fuses the
        # product. Otherwise it waits for the end of the forward pass: made here, inside a checkpointed block, it
        # would save tensors that the block's recomputation (which nobody taps) does not save.
        at_once = self.queries != "patches" and (not torch.is_grad_enabled() or torch.compiler.is_compiling())
        self.read.append(Finished(factors.rows()) if at_once else factors)

    def _unfused_pool(self, logits: Tensor, batch: int) -> None:
        """nn.MultiheadAttention that was asked for its weights: logits (B·H, Q, N) on their way to softmax."""
        if logits.ndim == 3 and logits.shape[-2] != logits.shape[-1]:
            rows = logits[..., self.first_key :].float()
            self.read.append(Finished(rows.unflatten(0, (batch, -1)).squeeze(-2)))


class _RowBeside(torch.autograd.Function):
    """q and k as they are, for attention, and beside them the [cls] row, (B, H, N) float32.

    The row's gradient is added into that of attention: taken as a function of slices of q and k it would fill two more
    tensors of their size with zeros and add them up, three times the work. Those may be written to: the q and k given
    out go to attention and nowhere else, so nobody else has their gradients. Nothing goes through save_for_backward, so
    that a checkpointed block's recomputation, which nobody taps, saves as many tensors as its forward pass.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: float, start: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.kept = q, k, scale, start
        return q.view_as(q), k.view_as(k), _row(q[:, :, :1], k[:, :, start:], scale)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_q: Tensor, of_k: Tensor, of_row: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, k, scale, start = ctx.kept
        of_q, of_k, of_row = _own(of_q), _own(of_k), of_row.unsqueeze(-1) * scale
        of_k[:, :, start:].addcmul_(of_row.to(of_k), q[:, :, :1])
        of_q[:, :, :1].add_((of_row * k[:, :, start:]).sum(2, keepdim=True))
        return of_q, of_k, None, None


def _row(query: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Scaled logits of one query (B, H, 1, d) over keys (B, H, N, d): (B, H, N) float32."""
    return (keys * (query.float() * scale)).sum(-1).float()


def _own(gradient: Tensor) -> Tensor:
    """A gradient that may be written to: the engine's own, unless it is a view of something else."""
    return gradient.clone() if gradient._is_view() else gradient


def _needs_gradient(query: Tensor, key: Tensor) -> bool:
    needed = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    return needed and not torch.compiler.is_compiling()


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


def _transparent() -> FunctionType:
    """F.multi_head_attention_forward that function modes can see into.

    Where a mode is entered, torch's own hands itself to the mode as one piece, again and again if it is called
    inside. This is the same code, for which `has_torch_function` is always false.
    """
    original = F.multi_head_attention_forward
    world = {k: v for k, v in vars(F).items() if k != "__name__"}  # or dynamo looks names up in torch's module
    world["has_torch_function"] = _never
    copy = FunctionType(original.__code__, world, original.__name__, original.__defaults__)
    copy.__kwdefaults__ = original.__kwdefaults__
    return copy


def _never(_: Any) -> bool:
    return False


_multi_head_attention_forward = _transparent()


def read_rows(
    model: Callable[..., Any],
    images: Tensor,
    body: Anatomy,
    layers: Sequence[int],
    queries: Queries = "cls",
    first_key: int | None = None,
    convolution: Callable[..., Tensor] | None = None,
    **options: Any,
) -> list[Reading]:
    """The rows of `layers` (ascending), without autograd; runs the model no further than the last of them.

    Args:
        model: a ViT, or a function that runs one; in whatever mode (train or eval) it is in.
        images: (B, C, height, width).
        body: its anatomy.
        layers: ascending layer indices.
        queries, first_key, convolution: see `RowTap`; by default prefix tokens are left out.
        options: keywords for the model's forward.

    Returns:
        One reading per layer.
    """
    # a compiled pass cannot be left half-way
    compiled = torch.compiler.is_compiling() or (isinstance(model, nn.Module) and is_compiled(model))
    first_key = body.prefix_tokens if first_key is None else first_key
    tap = RowTap(layers, first_key, not compiled and queries != "pool", queries, hide=True, convolution=convolution)
    if tap.stop:
        _check_fused(body, layers)
    try:
        with torch.no_grad(), tap:
            model(images, **options)
    except _Enough:
        pass
    return captured(tap, body, layers, images)


def captured(tap: RowTap, body: Anatomy, layers: Sequence[int], images: Tensor) -> list[Reading]:
    """What the tap read; GtaError unless there is one row of every layer, over all the patches, for every image."""
    if tap.read and not tap.stop and tap.calls != body.depth:
        raise GtaError(
            f"{body.name} made {tap.calls} calls of scaled_dot_product_attention in its {body.depth} "
            "layers, so the rows cannot be told apart: every layer must use fused attention, once."
        )
    if tap.queries == "pool" and len(tap.read) != 1:
        raise GtaError(
            f"{body.name} has no attention-pooling head with one query (one call expected, {len(tap.read)} seen), so "
            'rows="pool" has nothing to guide: use rows="cls" or rows="patches".'
        )
    if len(tap.read) != len(layers):
        _check_fused(body, layers)
        if not tap.calls and _is_fused(body.attentions[0]):
            raise GtaError(
                f"read 0 attention rows of {body.name}, whose attention is fused: gradient checkpointing inside "
                "torch.compile hides it. Use one of the two; compiling alone saves memory too."
            )
        raise GtaError(
            f"read {len(tap.read)} attention rows of {body.name} where {len(layers)} layers are guided "
            f"({tap.calls} calls of scaled_dot_product_attention seen): its {type(body.attentions[0]).__name__} is "
            "linear attention or a custom kernel, whose q and k cannot be read. Use a model with softmax attention."
        )
    patches = body.patches(images)
    for layer, reading in zip(layers, tap.read, strict=True):
        batch, keys = reading.shape[0], reading.shape[-1]
        wanted = None if patches is None else patches[0] * patches[1] + body.prefix_tokens - tap.first_key
        if batch != images.shape[0] or (wanted is not None and keys != wanted):
            raise GtaError(
                f"layer {layer} of {body.name} attends to {keys} tokens in {batch} groups, where {len(images)} images "
                f"have {wanted} each: attention inside windows, or merged or dropped tokens, cannot be guided."
            )
    return tap.read


def _check_fused(body: Anatomy, layers: Sequence[int]) -> None:
    for layer, attention in enumerate(body.attentions[: max(layers) + 1]):
        if getattr(attention, "fused_attn", True) is False:
            raise GtaError(
                f"read 0 attention rows of layer {layer} of {body.name}: it does not use fused attention. Set "
                "`fused_attn = True` on its attention layers, or unset TIMM_FUSED_ATTN=0."
            )


def _is_fused(attention: nn.Module) -> bool:
    """Whether the module is known to call scaled_dot_product_attention: of timm, torchvision or transformers."""
    known = isinstance(attention, nn.MultiheadAttention) or hasattr(attention, "fused_attn")
    return known or any(hasattr(module, "config") for module in attention.modules())
