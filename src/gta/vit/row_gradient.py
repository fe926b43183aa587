"""One row of attention logits read beside the fused attention, its gradient added into attention's own."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def one_row(query: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Scaled logits of one query (B, H, 1, d) over keys (B, H, N, d): (B, H, N) float32."""
    return (keys * (query.float() * scale)).sum(-1).float()


class RowBesideAttention(torch.autograd.Function):
    """q and k as they are, for attention, and beside them the [cls] row, (B, H, N) float32.

    The row's gradient is added into that of attention: taken as a function of slices of q and k it would fill two more
    tensors of their size with zeros and add them up, three times the work. Those may be written to: the q and k given
    out go to attention and nowhere else, so nobody else has their gradients. Nothing goes through save_for_backward, so
    that a checkpointed block's recomputation, which nobody captures, saves as many tensors as its forward pass.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: float, first_key: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.kept = q, k, scale, first_key
        return q.view_as(q), k.view_as(k), one_row(q[:, :, :1], k[:, :, first_key:], scale)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_q: Tensor, of_k: Tensor, of_row: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, k, scale, first_key = ctx.kept
        of_q, of_k, of_row = _writable(of_q), _writable(of_k), of_row.unsqueeze(-1) * scale
        of_k[:, :, first_key:].addcmul_(of_row.to(of_k), q[:, :, :1])
        of_q[:, :, :1].add_((of_row * k[:, :, first_key:]).sum(2, keepdim=True))
        return of_q, of_k, None, None


def _writable(gradient: Tensor) -> Tensor:
    """The engine's own gradient, or a copy where it is a view of something else."""
    return gradient.clone() if gradient._is_view() else gradient
