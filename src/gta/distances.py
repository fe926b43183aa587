"""Distances between the target's and the source's attention rows.

A distance takes both rows and returns one number per image and head; `guide` averages those over images, heads and
guided layers. To add one, write a function of this shape and put it into `DISTANCES`; where it has an argument
`temperature`, --temperature sets it. All work on the last dimension, whatever stands before it. Divergences and angles
are one number per row already: they read no reduction.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from gta.errors import GtaError
from gta.registry import Registry

Reduction = Literal["mean", "sum"]
Distance = Callable[[Tensor, Tensor, Reduction], Tensor]


def l2(target: Tensor, source: Tensor, reduction: Reduction) -> Tensor:
    """Squared difference of the scaled attention logits (GTA, arXiv 2401.02656).

    Args:
        target: rows of the model being tuned, (B, H, N) float32.
        source: rows of the frozen model, same shape.
        reduction: over the N patch tokens, "mean" or "sum".

    Returns:
        (B, H) float32.
    """
    return _reduced((target - source).square(), reduction)


def l2_normalised(target: Tensor, source: Tensor, reduction: Reduction) -> Tensor:
    """Squared difference of the rows centred over tokens: blind, like softmax, to a constant added to a row."""
    difference = target - source
    return _reduced((difference - difference.mean(-1, keepdim=True)).square(), reduction)


def smooth_l1(target: Tensor, source: Tensor, reduction: Reduction) -> Tensor:
    """d²/2 where |d| < 1, else |d| − 1/2 (Huber 1964): large differences pull no harder than 1."""
    return _reduced(F.smooth_l1_loss(target, source, reduction="none"), reduction)


def cosine(target: Tensor, source: Tensor, reduction: Reduction) -> Tensor:
    """1 − cosine of the angle between the rows centred over tokens, 0 to 2: blind to their scale and shift."""
    target, source = target - target.mean(-1, keepdim=True), source - source.mean(-1, keepdim=True)
    return 1 - F.cosine_similarity(target, source, dim=-1)


def kl(target: Tensor, source: Tensor, reduction: Reduction, temperature: float = 1.0) -> Tensor:
    """T²·KL(softmax(source / T) ‖ softmax(target / T)): the target must look wherever the source does.

    The softmax is over the tokens given. T² keeps the gradient's size as T grows (Hinton 2015, arXiv 1503.02531).
    """
    t, s = (target / temperature).log_softmax(-1), (source / temperature).log_softmax(-1)
    return temperature**2 * _divergence(s, t)


def reverse_kl(target: Tensor, source: Tensor, reduction: Reduction, temperature: float = 1.0) -> Tensor:
    """T²·KL(softmax(target / T) ‖ softmax(source / T)): the target must look nowhere that the source does not."""
    return kl(source, target, reduction, temperature)


def js(target: Tensor, source: Tensor, reduction: Reduction, temperature: float = 1.0) -> Tensor:
    """T²·(KL(p ‖ m) + KL(q ‖ m)) / 2 of both softmaxed rows and their mean m (Lin 1991); at T = 1 at most ln 2."""
    t, s = (target / temperature).log_softmax(-1), (source / temperature).log_softmax(-1)
    middle = t.logaddexp(s) - math.log(2)
    return temperature**2 * (_divergence(t, middle) + _divergence(s, middle)) / 2


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL of log-probabilities over the last dimension."""
    return (p.exp() * (p - q)).sum(-1)


def _reduced(each: Tensor, reduction: Reduction) -> Tensor:
    return each.mean(-1) if reduction == "mean" else each.sum(-1)


DISTANCES: Registry[Callable[..., Tensor]] = Registry(
    "distance",
    {
        "l2": l2,
        "kl": kl,
        "reverse_kl": reverse_kl,
        "js": js,
        "cosine": cosine,
        "smooth_l1": smooth_l1,
        "l2_normalised": l2_normalised,
    },
)


def takes_temperature(distance: str | Distance) -> bool:
    """Whether the distance takes a softmax of the rows, and so a temperature."""
    function = DISTANCES[distance] if isinstance(distance, str) else distance
    return "temperature" in inspect.signature(function).parameters


def distance_at(distance: str | Distance, temperature: float = 1.0) -> Distance:
    """A distance, its rows divided by a temperature.

    Args:
        distance: a name in `DISTANCES`, or a function of that shape.
        temperature: above 0.

    Raises:
        GtaError: another name, a temperature out of range, or one other than 1 for a distance that takes no softmax.
    """
    function = DISTANCES[distance] if isinstance(distance, str) else distance
    if not (math.isfinite(temperature) and temperature > 0):
        raise GtaError(f"temperature must be finite and above 0, such as 2, got {temperature}.")
    if takes_temperature(function):
        return partial(function, temperature=temperature)  # type: ignore[call-arg]
    if temperature != 1:
        tempered = ", ".join(name for name in DISTANCES if takes_temperature(name))
        raise GtaError(
            f"temperature={temperature} has no meaning for the distance {distance!r}, which takes no softmax: leave it "
            f"out, or use one of {tempered}."
        )
    return function
