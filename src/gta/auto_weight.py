"""λ set by itself, in each step anew (docs/methods.md says why).

    λ = L / D · r · min(1, r),   r = mean over layers and heads of D(l, h) / A(l, h) / budget

L: the batch's cross-entropy; D: its mean distance from the source, D(l, h) that of one head; A(l, h), the head's unit:
the distance between the source's own rows on these images and on other images of the batch. None passes a gradient.
"""

import torch
from torch import Tensor

from gta.errors import GtaError

LEAST_UNIT = 1e-3  # of the mean unit: a head that looks the same in every image must not decide alone


def auto_weight(loss: Tensor | None, distances: Tensor, units: Tensor, budget: float) -> Tensor:
    """λ of one step.

    Args:
        loss: L, a scalar.
        distances: D(l, h), (layers, heads).
        units: A(l, h), the same shape.
        budget: drift that is allowed, in units, above 0.

    Returns:
        A scalar without gradient.

    Raises:
        GtaError: there is no loss.
    """
    if loss is None:
        raise GtaError('weight="auto" balances the penalty with the loss: write guided(images, labels).')
    loss, distances, units = loss.detach(), distances.detach(), units.detach()
    least = (LEAST_UNIT * units.mean()).clamp(min=torch.finfo(units.dtype).eps)  # images that all look the same
    drift = (distances / units.maximum(least)).mean() / budget
    return loss * drift * drift.clamp(max=1) / distances.mean().clamp(min=torch.finfo(distances.dtype).tiny)
