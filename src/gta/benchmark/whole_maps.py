"""What the distance of whole N×N maps costs with and without building them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gta.benchmark.meters import compared, interleaved, peak_bytes
from gta.benchmark.setting import Setting, queries_and_keys, shape_of
from gta.errors import GtaError
from gta.vit.attention_logits import QueryKeyPair
from gta.vit.whole_maps import squared_difference


def whole_maps(setting: Setting, size: int, batch: int, rounds: int) -> dict[str, Any]:
    """Forward and backward of both ways: times, extra memory, and relative errors of value and gradients.

    q and k are random numbers: for the time and memory those of another image; for the error both "apart" (another
    image) and "close" (a hundredth away).
    """
    tokens, shape = patches_at(setting, size), shape_of(setting.source)
    (q, k), (q_source, k_source) = (queries_and_keys(setting, batch, tokens) for _ in range(2))
    factors = {"apart": [q, k, q_source, k_source], "close": [q, k, *(x + 0.01 * torch.randn_like(x) for x in (q, k))]}
    ways = {"gta": _without_maps, "naive": _with_maps}
    works = {name: partial(_value_and_gradients, way, factors["apart"]) for name, way in ways.items()}
    seconds = interleaved(works, rounds, setting.device)
    found: dict[str, Any] = {}
    for name, work in works.items():
        found[name] = {"against": "gta", **compared(seconds[name], seconds["gta"]), "off": {}}
        found[name]["peak_bytes"] = peak_bytes(work, setting.device)
        for where, four in factors.items():
            exact = _value_and_gradients(_with_maps, [x.double() for x in four])
            pairs = zip(_value_and_gradients(ways[name], four), exact, strict=True)
            found[name]["off"][where] = max(float((one - true).norm() / true.norm()) for one, true in pairs)
    note = (
        f"{size} px ({tokens} patches), {batch} images, {shape.heads} heads of width {shape.head_width}, float32, one "
        "layer; errors are relative, against float64, the larger one of value and gradients."
    )
    less = found["naive"]["peak_bytes"] / found["gta"]["peak_bytes"]
    return {"rows": found, "tokens": tokens, "batch": batch, "less_memory": less, "notes": [note]}


def patches_at(setting: Setting, size: int) -> int:
    """Patches of an image of that side in px; GtaError where they do not divide it."""
    patch = shape_of(setting.source).patch
    if size % patch:
        low = max(patch, size // patch * patch)
        raise GtaError(
            f"--full-size {size} is not a multiple of the source's {patch} px patches: write {low} or {low + patch}."
        )
    return int((size // patch) ** 2)


def _with_maps(q: Tensor, k: Tensor, q_source: Tensor, k_source: Tensor, scale: float) -> Tensor:
    return ((q * scale) @ k.mT - (q_source * scale) @ k_source.mT).square().mean()


def _without_maps(q: Tensor, k: Tensor, q_source: Tensor, k_source: Tensor, scale: float) -> Tensor:
    return squared_difference(QueryKeyPair(q, k, scale, None), QueryKeyPair(q_source, k_source, scale, None)).mean()


def _value_and_gradients(distance: Callable[..., Tensor], factors: Sequence[Tensor]) -> list[Tensor]:
    """Value, and gradients of the target's q and k, the first two factors."""
    q, k = (f.detach().requires_grad_() for f in factors[:2])
    value = distance(q, k, *factors[2:], q.shape[-1] ** -0.5)
    return [value.detach(), *torch.autograd.grad(value, (q, k))]
