"""Capture the attention logits of a ViT's layers while its attention stays fused.

All plain ViTs hand their final q and k (after query/key normalisation and rotary embedding) to
`torch.nn.functional.scaled_dot_product_attention`. The capture stands at that one call: it takes q of the [cls] token
and k of the patches, makes one (B,H,1,d)x(B,H,d,N) product, and lets the fused kernel go on. No N×N map is built and
no layer of the model is replaced.

A row is one query's scaled pre-softmax logits q·kᵀ·scale over the patch tokens, plus the layer's position bias where it
has one. Shapes: B images, H heads, Q queries, N patch tokens (no prefix), d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gta.vit.capture import entered
from gta.vit.diagnosis import check_captured, check_fused, check_maskless
from gta.vit.multihead import multi_head_attention_forward
from gta.vit.row_gradient import RowBesideAttention, one_row
from gta.vit.structure import ViTInfo

Rows = Literal["cls", "patches", "all", "pool"]  # "all" is "patches": the whole map


class QueryKeyPair(NamedTuple):
    """Logits not yet multiplied out.

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
        """Of the logits: (B, H, N), or (B, H, Q, N) of several queries."""
        batch, heads, queries, _ = self.q.shape
        return (batch, heads, self.k.shape[2]) if queries == 1 else (batch, heads, queries, self.k.shape[2])

    @property
    def requires_grad(self) -> bool:
        return self.q.requires_grad or self.k.requires_grad

    def float(self) -> Tensor:
        """The scaled logits, float32."""
        # float32 also under autocast: the difference of two close rows would drown in bf16's three digits
        with torch.autocast(self.q.device.type, enabled=False):
            if self.q.shape[-2] == 1:
                logits = one_row(self.q, self.k, self.scale).unsqueeze(-2)
            else:
                logits = (self.q.float() * self.scale) @ self.k.float().transpose(-2, -1)
            if self.bias is not None:
                logits = logits + self.bias.float()
        return logits.squeeze(-2)

    def roll(self, shift: int, dim: int) -> QueryKeyPair:
        """Each image's at another's place; `dim` is 0."""
        bias = self.bias
        if bias is not None and bias.shape[0] == self.q.shape[0]:
            bias = bias.roll(shift, dim)
        return QueryKeyPair(self.q.roll(shift, dim), self.k.roll(shift, dim), self.scale, bias)


class AttentionLogits(TorchFunctionMode):
    """A capture of the rows of some layers: per layer (B, H, N) or (B, H, Q, N) float32, or its `QueryKeyPair`.

    Attributes:
        calls: calls of self-attention seen.
    """

    def __init__(self, info: ViTInfo, layers: Sequence[int], rows: Rows = "cls", prefix: bool = False) -> None:
        """
        Args:
            info: of the model.
            layers: ascending indices of the layers to read; of no meaning for "pool".
            rows: "cls" for the first token's row, "patches" for the rows of all tokens that are read, "pool" for that
                of an attention-pooling head.
            prefix: read prefix tokens too, as keys and, with "patches", as queries.
        """
        super().__init__()
        self.info, self.layers, self.rows = info, layers, rows
        self.first_key = 0 if prefix else info.prefix_tokens
        self.on_complete: Callable[[AttentionLogits], None] | None = None
        self.paused = False
        self.calls = 0
        self._read: list[Tensor | QueryKeyPair] = []
        self._batch: int | None = None  # of the nn.MultiheadAttention that runs just now

    def __enter__(self) -> AttentionLogits:
        if self.on_complete is not None and self.rows != "pool":
            check_fused(self.info, self.layers)
        if not torch.compiler.is_compiling():
            entered.captures.append(self)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *raised: Any) -> None:
        if not torch.compiler.is_compiling():
            entered.captures.remove(self)
        super().__exit__(*raised)

    def read(self, images: Tensor) -> list[Any]:
        check_captured(self, self._read, images)
        return self._read

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            query, key, done = self.attention(*args, **kwargs)
            if done is not None:
                return done
            given = {"query": query, "key": key}
            args, kwargs = (query, key, *args[2:])[: len(args)], {k: given.get(k, v) for k, v in kwargs.items()}
        elif func is F.multi_head_attention_forward:
            self._batch = args[0].shape[1]
            with self:
                out = multi_head_attention_forward(*args, **kwargs)
            self._batch = None
            return out
        elif func is F.softmax and self.rows == "pool" and self._batch is not None:
            logits = args[0]  # (B·H, Q, N) of an nn.MultiheadAttention that was asked for its weights
            if logits.ndim == 3 and logits.shape[-2] != logits.shape[-1]:
                self._read.append(logits[..., self.first_key :].float().unflatten(0, (self._batch, -1)).squeeze(-2))
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
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read what is wanted of one call; the query and key for attention to go on with, or what it gives."""
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        if query.shape[-2] != key.shape[-2]:  # an attention-pooling head, not a layer
            if self.rows == "pool":
                self._keep(QueryKeyPair(query, key[:, :, self.first_key :], scale, None))
            return query, key, None
        layer, first = self.calls, self.first_key
        self.calls += 1
        if self.rows == "pool" or layer not in self.layers:
            return query, key, None
        check_maskless(layer, query, attn_mask, is_causal)
        which = slice(0, 1) if self.rows == "cls" else slice(first, None)
        bias = None
        if attn_mask is not None:
            tokens = query.shape[-2]
            bias = attn_mask.expand(*attn_mask.shape[:-2], tokens, tokens)[..., which, first:]
        keys = key
        if key.shape[1] != query.shape[1]:  # grouped queries share a key
            keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        elif self.rows == "cls" and bias is None and _needs_gradient(query, key):
            last = entered.captures[:1] == [self]  # nobody else has still to see this call
            if last and not dropout_p and entered.attend is not None:
                both = entered.attend(query, key, value, scale, first)
                if both is not None:
                    self._read.append(both[1])
                    return query, key, both[0]
            query, key, row = RowBesideAttention.apply(query, key, scale, first)  # type: ignore[no-untyped-call]
            self._read.append(row)
            return query, key, None
        self._keep(QueryKeyPair(query[:, :, which], keys[:, :, first:], scale, bias))
        if self.on_complete is not None and layer == self.layers[-1]:
            self.on_complete(self)
        return query, key, None

    def _keep(self, pair: QueryKeyPair) -> None:
        # Without autograd nothing else keeps q and k alive, so only the row is kept; torch.compile fuses the
        # product. Otherwise it waits for the end of the forward pass: made here, inside a checkpointed block, it
        # would save tensors that the block's recomputation (which nobody captures) does not save.
        at_once = self.rows != "patches" and (not torch.is_grad_enabled() or torch.compiler.is_compiling())
        self._read.append(pair.float() if at_once else pair)


def _needs_gradient(query: Tensor, key: Tensor) -> bool:
    needed = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    return needed and not torch.compiler.is_compiling()


class AttentionMaps(AttentionLogits):
    """A capture of the [cls] attention over the patches, after softmax over all tokens: (B, H, N) float32 per layer."""

    def __init__(self, info: ViTInfo, layers: Sequence[int]) -> None:
        super().__init__(info, layers, prefix=True)

    def read(self, images: Tensor) -> list[Any]:
        return [row.float().softmax(-1)[..., self.info.prefix_tokens :] for row in super().read(images)]
