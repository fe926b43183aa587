"""The squared difference of two full attention maps, without either of them.

With D = QKᵀ − Q'K'ᵀ = (Q − Q')Kᵀ + Q'(K − K')ᵀ = A·Bᵀ, where A = [Q − Q', Q'] and B = [K, K − K'] are (N, 2d),

    ‖D‖² = trace(A Bᵀ B Aᵀ) = Σ (AᵀA ∘ BᵀB)

which needs two 2d×2d matrices instead of two N×N maps. Every term of the sum is of the size of the difference,
so nothing is lost by cancellation where target and source are close, and equal models give exactly zero. The gradient,
2·A·BᵀB with respect to A and 2·B·AᵀA to B, needs no more than the same matrices.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gta.vit.attention_logits import QueryKeyPair


def squared_difference(target: QueryKeyPair, source: QueryKeyPair) -> Tensor:
    """Mean over all pairs of patches of the squared difference of the scaled logits.

    Args:
        target, source: q and k of the patches, (B, H, N, d) each; no gradient goes to the source.

    Returns:
        (B, H) float32.
    """
    (q, k, scale, bias), (q_source, k_source, scale_source, bias_source) = target, source
    if q.shape != q_source.shape or bias is not None or bias_source is not None:
        return (target.float() - source.float()).square().mean((-2, -1))
    with torch.autocast(q.device.type, enabled=False):
        squared: Tensor = _SquaredNorm.apply(q, k, q_source, k_source, scale_source / scale)  # type: ignore[no-untyped-call]
        return squared * (scale**2 / (q.shape[-2] * k.shape[-2]))


class _SquaredNorm(torch.autograd.Function):
    """‖QKᵀ − ratio·Q'K'ᵀ‖², (B, H) float32. Kept for the gradient: the arguments and five d×d matrices."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, q_source: Tensor, k_source: Tensor, ratio: float) -> Tensor:
        dq, qs, key, dk = _parts(q, k, q_source, k_source, ratio)
        left = [x.transpose(-2, -1) @ y for x, y in ((dq, dq), (dq, qs), (qs, qs))]
        right = [x.transpose(-2, -1) @ y for x, y in ((key, key), (key, dk), (dk, dk))]
        ctx.save_for_backward(q, k, q_source, k_source, *left, *right[:2])
        ctx.ratio = ratio
        (aa, ab, bb), (cc, cd, dd) = left, right
        return (aa * cc + 2 * ab * cd + bb * dd).sum((-2, -1))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_norm: Tensor) -> tuple[Tensor | None, ...]:
        q, k, q_source, k_source, aa, ab, bb, cc, cd = ctx.saved_tensors
        dq, qs, key, dk = _parts(q, k, q_source, k_source, ctx.ratio)
        twice = 2 * of_norm[..., None, None]
        of_q = _sum_of_products(dq, twice * cc, qs, twice * cd.transpose(-2, -1))
        del dq, qs
        of_k = _sum_of_products(key, twice * (aa + ab), dk, twice * (ab.transpose(-2, -1) + bb))
        return of_q.to(q.dtype), of_k.to(k.dtype), None, None, None


def _parts(q: Tensor, k: Tensor, q_source: Tensor, k_source: Tensor, ratio: float) -> tuple[Tensor, ...]:
    """Q − Q', Q', K and K − K', float32."""
    qs = q_source.float() if ratio == 1 else q_source.float() * ratio
    return q.float() - qs, qs, k.float(), k.float() - k_source.float()


def _sum_of_products(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """a·b + c·d of (B, H, N, d) and (B, H, d, d)."""
    first = (a @ b).flatten(0, 1)
    return first.baddbmm_(c.flatten(0, 1), d.flatten(0, 1)).view(a.shape)
