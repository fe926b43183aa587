"""GTA: guided transfer of spatial attention (arXiv 2401.02656).

A frozen copy of the pre-trained model (the *source*) runs beside the model being tuned (the *target*) on the same
images. Per layer and head, both give a *row*: the scaled pre-softmax logits q·kᵀ/√d of the [cls] query over the patch
tokens. Training adds to the cross-entropy

    penalty = weight · mean over images, guided layers, heads and patch tokens of (target's row − source's row)²

This file says what is captured of a model, how both are compared, and how that is weighed; `gta.guided` puts it into a
training loop. The paper publishes neither the guided layers nor the reduction: "all" and "mean" are this package's.
"""

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from gta.auto_weight import auto_weight
from gta.distances import DISTANCES, Distance, Reduction, distance_at, takes_temperature
from gta.errors import GtaError
from gta.registry import Registry
from gta.vit.attention_logits import AttentionLogits, AttentionMaps, Rows
from gta.vit.capture import Capture, SourcePass
from gta.vit.diagnosis import check_gradient
from gta.vit.heads import held_heads
from gta.vit.outputs import LayerOutputs
from gta.vit.pair import Row, check_matching, row_pairs, squared_rows
from gta.vit.structure import ViTInfo, resolve_layers, vit_info

QUANTITIES: Registry[Callable[[ViTInfo, Sequence[int], Rows], Capture]] = Registry(  # what is captured of a model
    "quantity",
    {
        "logits": AttentionLogits,
        "attention": lambda info, layers, rows: AttentionMaps(info, layers),
        "msa": lambda info, layers, rows: LayerOutputs(info.attentions, layers),
        "block": lambda info, layers, rows: LayerOutputs(info.blocks, layers),
    },
)


class Guidance:
    """What is captured of a model, how target and source are compared, how that is weighed; options as in `guide`.

    Attributes:
        weight: λ, or "auto"; may be changed between steps.
        current_weight: λ of the last step.
        layers: the guided layers, ascending, non-negative.
        rows: "cls", "patches" or "pool".
        target, source: `ViTInfo` of both.
        source_pass: how the source's pass is run.
    """

    def __init__(
        self,
        target: nn.Module,
        source: nn.Module,
        weight: float | str = 10.0,
        weight_budget: float = 0.1,
        quantity: str = "logits",
        distance: str | Distance = "l2",
        temperature: float = 1.0,
        reduction: Reduction = "mean",
        rows: Rows = "cls",
        layers: str | int | Sequence[int] = "all",
        layer_weights: Sequence[float] | None = None,
        free_heads: str | Sequence[tuple[int, int]] | None = None,
        source_precision: str = "same",
        source_compile: bool | str = False,
    ) -> None:
        self.target, self.source = vit_info(target), vit_info(source)
        check_matching(self.target, self.source, rows)
        self.rows: Rows = "patches" if rows == "all" else rows
        self.layers = resolve_layers(layers, 1 if rows == "pool" else self.target.depth)
        _check("weight", weight, weight == "auto" or _finite(weight), 'finite and ≥ 0, such as 10, or "auto"')
        _check("weight_budget", weight_budget, _finite(weight_budget) and weight_budget > 0, "finite and > 0, as 0.1")
        _check("rows", rows, rows in ("cls", "patches", "all", "pool"), '"cls", "patches", "all" or "pool"')
        _check("reduction", reduction, reduction in ("mean", "sum"), '"mean" or "sum"')
        _check("source_precision", source_precision, source_precision in ("auto", "same"), '"auto" or "same"')
        _check("source_compile", source_compile, source_compile in (True, False, "auto"), 'True, False or "auto"')
        fine = layer_weights is None or (len(layer_weights) == len(self.layers) and all(map(_finite, layer_weights)))
        _check(
            "layer_weights",
            layer_weights,
            fine,
            f"a finite number ≥ 0 for each of the {len(self.layers)} guided layers",
        )
        self._held = held_heads(free_heads, self.layers, self.target)
        fine = self._held is None or quantity in ("logits", "attention")
        _check("free_heads", free_heads, fine, f"left out with {quantity}, which has no heads")
        if quantity != "logits" and (rows != "cls" or takes_temperature(distance)):
            what = f"rows={rows!r} chooses among" if rows != "cls" else f"distance={distance!r} takes a softmax of"
            raise GtaError(f'{what} logits: use quantity="logits" (--guide logits), or leave it out with {quantity!r}.')
        self.weight = weight
        self.current_weight: float | Tensor = 0.0 if isinstance(weight, str) else float(weight)
        self.weight_budget, self.reduction, self.layer_weights = weight_budget, reduction, layer_weights
        self.quantity, self._distance = quantity, distance_at(distance, temperature)
        QUANTITIES[quantity]  # refuses what is not known
        self.source_pass, self.source_compile = SourcePass(), source_compile
        if source_precision == "auto" or source_compile:  # the one door to what makes it quicker
            faster = import_module("gta.acceleration.source_pass").AdaptivePass
            self.source_pass = faster(source, self.source, source_precision == "auto", source_compile)

    def release_source(self) -> None:
        """Hold no module of the source any longer."""
        self.source, self.source_pass = self.target, SourcePass()

    def capture(self, info: ViTInfo) -> Capture:
        """To be entered around a forward pass of the model that `info` describes."""
        return QUANTITIES[self.quantity](info, self.layers, self.rows)

    def distances(self, target: list[Row], source: list[Row]) -> Tensor:
        """What was captured of both, compared: mean over images, (guided layers, heads) float32, without λ.

        Of quantities that are no rows of heads, such as "msa", the second dimension is that of tokens; where heads are
        free, a vector of the others.
        """
        each = [self._distance_of(t, s).mean(0) for t, s in row_pairs(self.layers, target, source)]
        if self.layer_weights is not None:
            each = [weight * distance for weight, distance in zip(self.layer_weights, each, strict=True)]
        return torch.stack(each) if self._held is None else torch.stack(each)[self._held.to(each[0].device)]

    def _distance_of(self, target: Row, source: Row) -> Tensor:
        if self.rows == "patches" and self._distance is DISTANCES["l2"]:  # without an N×N map
            squared = squared_rows(target, source)
            return squared if self.reduction == "mean" else squared * target.shape[-1]
        return self._distance(target.float(), source.float(), self.reduction)

    def penalty(self, target: list[Row], source: list[Row], loss: Tensor | None = None) -> Tensor:
        """λ times the mean distance, a float32 scalar; `loss`, the batch's cross-entropy, is what "auto" balances."""
        if self.quantity == "logits":
            check_gradient(self.target, self.layers, target, self.rows == "pool")
        distances = self.distances(target, source)
        self.source_pass.check(lambda trial: self.distances(target, trial).mean(), distances.mean())
        weight = self.weight
        self.current_weight = self._auto_weight(distances, source, loss) if isinstance(weight, str) else weight
        return self.current_weight * distances.mean()

    def _auto_weight(self, distances: Tensor, source: list[Row], loss: Tensor | None) -> Tensor:
        if source[0].shape[0] < 2:
            raise GtaError("--weight auto compares the images of a batch: use a --batch-size of at least 2 per device.")
        units = self.distances([row.roll(1, 0) for row in source], source)  # from each image to its neighbour
        return auto_weight(loss, distances, units, self.weight_budget)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def _check(name: str, value: Any, fine: bool, wanted: str) -> None:
    if not fine:
        raise GtaError(f"{name} must be {wanted}, got {value!r}.")
