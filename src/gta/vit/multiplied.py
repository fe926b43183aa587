"""Attention multiplied out, with the [cls] row taken from the same logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gta.vit.row_gradient import one_row


class MultipliedAttention(torch.autograd.Function):
    """softmax(q kᵀ · scale) v, (B, H, N, d), and beside it the [cls] row over the keys from `first_key` on, float32.

    q, k and v share a dtype. Logits of one query may be shifted together, so the keys' mean is taken off first: what
    all keys have in common would use up bf16's three digits (DINOv2 ViT-S: logits up to 260, gradients 9 % off; without
    the mean 21 and 0.9 %). The row is a product of its own, exact in float32; its gradient is added to that of the
    logits, so that going back costs it nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, first_key: int | None
    ) -> tuple[Tensor, Tensor | None]:
        row = None if first_key is None else one_row(q[:, :, :1], k[:, :, first_key:], scale)
        ctx.scale, ctx.first_key = scale, first_key
        with torch.autocast(q.device.type, enabled=False):
            mean = k.mean(2, keepdim=True)
            # written contiguous, as products take them: q, k and v lie between one another
            q, k, v = torch.mul(q, scale, out=_like(q)), torch.sub(k, mean, out=_like(k)), v.contiguous()
            attention = (q @ k.mT).softmax(-1)
            ctx.save_for_backward(q, k, v, mean, attention)
            return attention @ v, row

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_out: Tensor, of_row: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, mean, attention = ctx.saved_tensors
        of_out = of_out.contiguous()
        of_v, of_attention = attention.mT @ of_out, of_out @ v.mT
        of_logits = torch.ops.aten._softmax_backward_data(of_attention, attention, -1, attention.dtype)
        if of_row is not None:
            of_logits[:, :, 0, ctx.first_key :] += of_row
        of_q, of_k = of_logits @ k, of_logits.mT @ q
        if of_row is not None:  # all other logits' gradients add up to nothing along the keys, and their mean with them
            of_q[:, :, 0] += of_row.sum(-1, keepdim=True) * mean[:, :, 0]
        return of_q * ctx.scale, of_k, of_v, None, None


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
