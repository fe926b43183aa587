"""GTA: guided transfer of spatial attention (arXiv 2401.02656).

A frozen copy of the pre-trained model (the *source*) runs beside the model being tuned (the *target*) on the
same images. Per layer and head, both give a *row*: the scaled pre-softmax logits q·kᵀ/√d of the [cls] query
over the patch tokens. Training adds to the cross-entropy

    penalty = weight · mean over images, guided layers, heads and patch tokens of (t − s)²

    source = gta.load_source("dinov2.safetensors", image_size=126)
    model = gta.new_target(source, num_classes=45)
    guided = gta.guide(model, source, weight=10.0)
    logits, penalty = guided(images)
    loss = cross_entropy(logits, labels) + penalty

The paper publishes neither the guided layers nor the reduction: "all" and "mean" are this package's defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gta.distances import DISTANCES, Distance, Reduction
from gta.errors import GtaError
from gta.taps import (
    RowTap,
    anatomy,
    captured_rows,
    check_images,
    parameters_before_row,
    read_rows,
    resolve_layers,
)


def guide(
    model: nn.Module,
    source: nn.Module,
    weight: float = 10.0,
    layers: str | int | Sequence[int] = "all",
    distance: str | Distance = "l2",
    reduction: Reduction = "mean",
    layer_weights: Sequence[float] | None = None,
) -> Guided:
    """Guide `model` by the attention of `source`.

    Args:
        model: the target, a ViT with a [cls] token; used as it is, not copied.
        source: the frozen source of the same depth, heads and token grid; set to eval and frozen.
        weight: λ ≥ 0. The paper tries 0.1, 1, 10 and 100.
        layers: "all", "last", or layer indices (negative ones count from the end).
        distance: a name in `gta.distances.DISTANCES`, or a function of that shape.
        reduction: over patch tokens, "mean" or "sum"; images, layers and heads are always averaged.
        layer_weights: factor ≥ 0 of each guided layer's distance, in layer order; None for 1 everywhere.

    Returns:
        A module that maps images to (logits, penalty).

    Raises:
        GtaError: the models do not match, have no [cls] token, or an option is out of range.
    """
    return Guided(model, source, weight, layers, distance, reduction, layer_weights)


class Guided(nn.Module):
    """A model and its guide; see `guide`.

    Attributes:
        model: the user's own module, unwrapped; its state_dict has no trace of the guide.
        source: the frozen source. It is no submodule: it stays in eval mode, out of `parameters()` and out of
            `state_dict()`, but follows `.to(device)`.
        weight: λ; may be changed between steps.
        layers: the guided layers, ascending, non-negative.
        first_patch: number of prefix tokens of target and source.
    """

    model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        source: nn.Module,
        weight: float,
        layers: str | int | Sequence[int],
        distance: str | Distance,
        reduction: Reduction,
        layer_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if model is source:
            raise GtaError("model and source are the same object: the source must be a frozen copy of its own.")
        target_is, source_is = anatomy(model), anatomy(source)
        for what in ("depth", "heads", "grid"):
            ours, theirs = getattr(target_is, what), getattr(source_is, what)
            if ours != theirs and ours is not None and theirs is not None:
                raise GtaError(
                    f"target and source differ in {what}: {ours} against {theirs}. Their attention rows can only "
                    "be compared one to one; build both from the same architecture and image size."
                )
        if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
            raise GtaError(f"weight={weight!r} is no λ: write a finite number ≥ 0, such as 10.")
        if isinstance(distance, str) and distance not in DISTANCES:
            raise GtaError(f"distance={distance!r} is not known: use one of {', '.join(DISTANCES)}.")
        if reduction not in ("mean", "sum"):
            raise GtaError(f'reduction={reduction!r} is not known: use "mean" or "sum".')
        self.model = model
        self.weight = float(weight)
        self.layers = resolve_layers(layers, target_is.depth)
        self.layer_weights = None if layer_weights is None else _checked(layer_weights, self.layers)
        self.reduction: Reduction = reduction
        self._distance = DISTANCES[distance] if isinstance(distance, str) else distance
        self.first_patch = (target_is.prefix_tokens, source_is.prefix_tokens)
        self._hidden_source = (source.requires_grad_(False).eval(),)  # in a tuple, so no submodule
        self.training = model.training

    @property
    def source(self) -> nn.Module:
        return self._hidden_source[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Guided:
        self.source._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run target and, in training, source.

        Args:
            images: (B, C, height, width), already normalised for the model.

        Returns:
            The model's logits, and the penalty as a float32 scalar. In eval mode (of the model) and at weight
            0 the source is not run and the penalty is zero.

        Raises:
            GtaError: images of a size the models cannot take; rows that were not captured, do not match, or
                have lost their gradient.
        """
        check_images(self.model, images)
        if not self.model.training or self.weight == 0:
            return self.model(images), torch.zeros((), device=images.device)
        source_rows = self.source_rows(images)  # first: its workspace is free again before the target's fills up
        tap = self.tap()
        with tap:
            logits = self.model(images)
        return logits, self.weight * self.distance(self.target_rows(tap), source_rows)

    def tap(self) -> RowTap:
        """To be entered around the target's forward pass, for `target_rows`."""
        return RowTap(self.layers, self.first_patch[0])

    def target_rows(self, tap: RowTap) -> list[Tensor]:
        """The rows that a tap saw, one (B, H, N) float32 tensor per guided layer."""
        rows = captured_rows(tap, self.model, self.layers)
        self._check_gradient(rows)
        return rows

    def distance(self, target: list[Tensor], source: list[Tensor]) -> Tensor:
        """Mean distance over images, heads and guided layers (each with its factor), without λ: float32 scalar."""
        per_layer = torch.stack([self._distance(t, s, self.reduction).mean() for t, s in self._pairs(target, source)])
        if self.layer_weights is not None:
            per_layer = per_layer * torch.tensor(self.layer_weights, device=per_layer.device)
        return per_layer.mean()

    def measure(self, images: Tensor) -> Tensor:
        """Squared row difference between target and source, for diagnosis.

        Both run in eval mode without autograd, whatever mode the target is in.

        Args:
            images: (B, C, height, width), already normalised.

        Returns:
            (guided layers, heads) float32: mean over images and patch tokens of (t − s)².
        """
        check_images(self.model, images)
        tap = RowTap(self.layers, self.first_patch[0])
        with evaluating(self.model), torch.no_grad(), tap:
            self.model(images)
        target = captured_rows(tap, self.model, self.layers)
        pairs = self._pairs(target, self.source_rows(images))
        return torch.stack([(t - s).square().mean((0, 2)) for t, s in pairs])

    def source_rows(self, images: Tensor) -> list[Tensor]:
        """The source's rows of these images, without autograd, one (B, H, N) float32 tensor per guided layer."""
        self.ready_source(images)
        return read_rows(self.source, images, self.layers, self.first_patch[1])

    def ready_source(self, images: Tensor) -> None:
        """See to it that the source is in eval mode, where the target is, and can take the images."""
        if self.source.training:  # somebody called train() on it
            self.source.eval()
        ours, theirs = next(self.model.parameters()), next(self.source.parameters())
        if ours.device != theirs.device or ours.dtype != theirs.dtype:  # the model was moved without its guide
            self.source.to(ours.device, ours.dtype)
        check_images(self.source, images)

    def _pairs(self, target: list[Tensor], source: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for layer, t, s in zip(self.layers, target, source, strict=True):
            if t.shape != s.shape:
                raise GtaError(
                    f"layer {layer}: the target's rows are {tuple(t.shape)} (images, heads, patches), the source's "
                    f"{tuple(s.shape)}. Build both with the same heads and image size."
                )
            yield t, s

    def _check_gradient(self, rows: list[Tensor]) -> None:
        if not torch.is_grad_enabled():
            return
        for layer, row in zip(self.layers, rows, strict=True):
            if not row.requires_grad and any(p.requires_grad for p in parameters_before_row(self.model, layer)):
                raise GtaError(
                    f"the attention row of layer {layer} carries no gradient although parameters before it are "
                    "trained, so the guide would do nothing. Reentrant gradient checkpointing does this: use "
                    "use_reentrant=False."
                )

    def extra_repr(self) -> str:
        return f"weight={self.weight}, layers={self.layers}, reduction={self.reduction!r}"


def _checked(layer_weights: Sequence[float], layers: Sequence[int]) -> tuple[float, ...]:
    if len(layer_weights) != len(layers) or not all(math.isfinite(w) and w >= 0 for w in layer_weights):
        raise GtaError(
            f"layer_weights={list(layer_weights)} cannot be used: write one finite number ≥ 0 for each of the "
            f"{len(layers)} guided layers."
        )
    return tuple(float(w) for w in layer_weights)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, every submodule's own mode restored after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
