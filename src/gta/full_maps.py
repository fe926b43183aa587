"""The squared difference of two full attention maps, without either of them.

With D = QKᵀ − Q'K'ᵀ = (Q − Q')Kᵀ + Q'(K − K')ᵀ = A·Bᵀ, where A = [Q − Q', Q'] and B = [K, K − K'] are (N, 2d),

    ‖D‖² = trace(A Bᵀ B Aᵀ) = Σ (AᵀA ∘ BᵀB)

which needs two 2d×2d matrices instead of two N×N maps. Every term of the sum is of the size of the difference,
so nothing is lost by cancellation where target and source are close, and equal models give exactly zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gta.taps import Factors


def squared_difference(target: Factors, source: Factors) -> Tensor:
    """Mean over all pairs of patches of the squared difference of the scaled logits.

    Args:
        target, source: q and k of the patches, (B, H, N, d) each.

    Returns:
        (B, H) float32.
    """
    (q, k), (q_source, k_source) = target.scaled(), source.scaled()
    if q.shape != q_source.shape or target.bias is not None or source.bias is not None:
        return (target.rows() - source.rows()).square().mean((-2, -1))
    with torch.autocast(q.device.type, enabled=False):
        left = torch.cat([q - q_source, q_source], -1)
        right = torch.cat([k, k - k_source], -1)
        grams = (left.transpose(-2, -1) @ left) * (right.transpose(-2, -1) @ right)
    return grams.sum((-2, -1)) / (q.shape[-2] * k.shape[-2])
