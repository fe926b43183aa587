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
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gta.acceleration.source_precision import SourcePrecision
from gta.acceleration.stem import SharedStem
from gta.distances import DISTANCES, Distance, Reduction
from gta.errors import GtaError
from gta.vit.attention_logits import Factors, Queries, Reading, RowTap, captured, read_rows, resolve_layers
from gta.vit.structure import Anatomy, anatomy, parameters_before_row
from gta.vit.whole_maps import squared_difference

T = TypeVar("T")


def guide(
    model: nn.Module,
    source: nn.Module,
    weight: float = 10.0,
    layers: str | int | Sequence[int] = "all",
    distance: str | Distance = "l2",
    reduction: Reduction = "mean",
    rows: Queries = "cls",
    layer_weights: Sequence[float] | None = None,
    every: int = 1,
    source_precision: str = "auto",
    source_compile: bool = False,
) -> Guided:
    """Guide `model` by the attention of `source`.

    Args:
        model: the target: a ViT of timm, transformers or torchvision, or a module with one such inside. Used as
            it is, neither copied nor changed; it may be compiled, wrapped for several processes, or in part frozen.
        source: the frozen source of the same depth, heads and token grid; set to eval and frozen.
        weight: λ ≥ 0. The paper tries 0.1, 1, 10 and 100.
        layers: "all", "last", or layer indices (negative ones count from the end).
        distance: a name in `gta.distances.DISTANCES`, or a function of that shape.
        reduction: over patch tokens, "mean" or "sum"; images, layers, heads and queries are always averaged.
        rows: whose attention is guided. "cls": the [cls] token's, as in the paper. "all", or "patches": the whole
            map, every patch's row, prefix tokens left out on both sides, also for models without [cls] (with "l2" no
            N×N map is built). "pool": the query of an attention-pooling head, one layer behind all others (SigLIP).
        layer_weights: factor ≥ 0 of each guided layer's distance, in layer order; None for 1 everywhere.
        every: guide every so many forward passes in training only, with that multiple of the penalty: the same in
            mean, and the source runs so much less often. The first pass of each k is guided. Under AdamW and clipped
            gradients it guides less than that (docs/cost.md).
        source_precision: "auto" lets the source's feed-forward layers compute in bf16 in float32 training, where the
            device is faster at it and while that changes the penalty by less than 1 %; "same" never does. Under
            autocast both are the target's.
        source_compile: compile the source's pass up to its last row (torch.compile, once for each shape of the images,
            which takes a quarter of a minute; on CPUs it needs a C++ compiler). The rows are the same up to rounding.

    Returns:
        A module that maps images to (logits, penalty).

    Raises:
        GtaError: the models do not match, have no [cls] token, or an option is out of range.
    """
    return Guided(
        model, source, weight, layers, distance, reduction, rows, layer_weights, every, source_precision, source_compile
    )


class Guided(nn.Module):
    """A model and its guide; see `guide`.

    Attributes:
        model: the user's own module, unwrapped; its state_dict has no trace of the guide.
        source: the frozen source. It is no submodule: it stays in eval mode, out of `parameters()` and out of
            `state_dict()`, but follows `.to(device)`.
        weight: λ; may be changed between steps.
        layers: the guided layers, ascending, non-negative.
        rows: "cls", "patches" or "pool".
        every: as given.
        step: forward passes made in training; set it where a resumed training shall go on as it would have.
        precision: in which the source runs, see `gta.acceleration.source_precision`.
        bodies: anatomy of target and source.
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
        rows: Queries = "cls",
        layer_weights: Sequence[float] | None = None,
        every: int = 1,
        source_precision: str = "auto",
        source_compile: bool = False,
    ) -> None:
        super().__init__()
        if model is source:
            raise GtaError("model and source are the same object: the source must be a frozen copy of its own.")
        if rows not in ("cls", "patches", "all", "pool"):
            raise GtaError(f'rows={rows!r} is not known: use "cls", "patches", "all" or "pool".')
        if not isinstance(every, int) or every < 1:
            raise GtaError(f"every={every!r} cannot be used: write a whole number, 1 for every pass.")
        target_is, source_is = anatomy(model), anatomy(source)
        for what in ("depth", "heads", "grid"):
            ours, theirs = getattr(target_is, what), getattr(source_is, what)
            if ours != theirs and ours is not None and theirs is not None:
                raise GtaError(
                    f"target and source differ in {what}: {ours} against {theirs}. Their attention rows can only "
                    "be compared one to one; build both from the same architecture and image size."
                )
        for body in (target_is, source_is):
            if rows == "cls" and not body.has_cls:
                raise GtaError(
                    f"{body.name} has no [cls] token, so there is no [cls] attention to guide. Use a model with one "
                    '(timm: class_token=True; global_pool="avg" may stay), or rows="patches".'
                )
        if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
            raise GtaError(f"weight={weight!r} is no λ: write a finite number ≥ 0, such as 10.")
        if isinstance(distance, str) and distance not in DISTANCES:
            raise GtaError(f"distance={distance!r} is not known: use one of {', '.join(DISTANCES)}.")
        if reduction not in ("mean", "sum"):
            raise GtaError(f'reduction={reduction!r} is not known: use "mean" or "sum".')
        self.model = model
        self.weight = float(weight)
        self.layers = resolve_layers(layers, 1 if rows == "pool" else target_is.depth)
        self.layer_weights = None if layer_weights is None else _checked(layer_weights, self.layers)
        self.reduction: Reduction = reduction
        self.rows: Queries = "patches" if rows == "all" else rows
        self.every = every
        self.step = 0
        self._distance = DISTANCES[distance] if isinstance(distance, str) else distance
        self.bodies = (target_is, source_is)
        self.precision = SourcePrecision(source, source_is, source_precision, source_compile)
        self._stem = SharedStem()
        self._hidden_source: tuple[nn.Module, ...] = (
            source.requires_grad_(False).eval(),
        )  # in a tuple, so no submodule
        self.training = model.training

    @property
    def source(self) -> nn.Module:
        if not self._hidden_source:
            raise GtaError("the guide was detached, so there is no source; make a new one with gta.guide.")
        return self._hidden_source[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Guided:
        for source in self._hidden_source:
            source._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, images: Tensor, **options: Any) -> tuple[Any, Tensor]:
        """Run target and, in training, source.

        Args:
            images: (B, C, height, width), already normalised for the model.
            options: keywords for the forward of both models, such as `interpolate_pos_encoding=True`.

        Returns:
            The model's logits (what it returns; the `logits` of a transformers output where it has them), and
            the penalty as a float32 scalar. In eval mode (of the model), at weight 0 and after `detach()` the
            source is not run and the penalty is zero.

        Raises:
            GtaError: images of a size the models cannot take; rows that were not captured, do not match, or
                have lost their gradient.
        """
        output, penalty = self.around(images, lambda: self.model(images, **options), **options)
        return getattr(output, "logits", output), penalty

    def around(self, images: Tensor, run: Callable[[], T], **options: Any) -> tuple[T, Tensor]:
        """The penalty of a forward pass of the target that somebody else makes; see `forward`.

        Args:
            images: those the target is going to see.
            run: runs the target once on them.
            options: keywords for the source's forward.

        Returns:
            What `run` returned, and the penalty.
        """
        self.bodies[0].check(images)
        if not self.model.training or self.weight == 0 or not self._hidden_source:
            return run(), torch.zeros((), device=images.device)
        if not self.due():
            self._count()
            return run(), torch.zeros((), device=images.device)
        source = self.source_rows(images, **options)  # first: its workspace is free again before the target's fills up
        tap = self.tap()
        with tap:
            output = run()
        self._count()
        return output, self.every * self.weight * self.judged(self.target_rows(tap, images), source).mean()

    def due(self) -> bool:
        """Whether this step is one that is guided."""
        return self.step % self.every == 0

    def _count(self) -> None:
        if not torch.compiler.is_compiling():  # a number that changes would have it compiled again in every step
            self.step += 1
        elif self.every > 1:
            raise GtaError(f"every={self.every} cannot be counted inside torch.compile: compile the model alone.")

    def tap(self) -> RowTap:
        """To be entered around the target's forward pass, for `target_rows`."""
        return RowTap(self.layers, self.bodies[0].prefix_tokens, queries=self.rows, convolution=self._stem.of_target)

    def target_rows(self, tap: RowTap, images: Tensor) -> list[Reading]:
        """The rows that a tap saw, one reading per guided layer."""
        target = captured(tap, self.bodies[0], self.layers, images)
        self._check_gradient(target)
        return target

    def distances(self, target: list[Reading], source: list[Reading]) -> Tensor:
        """Mean distances over images, without λ: (guided layers, heads) float32; each layer's with its factor.

        Of readings that are no rows of heads, as the ablations' outputs, the second dimension is that of tokens.
        """
        each = [self._distances(t, s).mean(0) for t, s in self._pairs(target, source)]
        if self.layer_weights is not None:
            each = [weight * distance for weight, distance in zip(self.layer_weights, each, strict=True)]
        return torch.stack(each)

    def judged(self, target: list[Reading], source: list[Reading]) -> Tensor:
        """`distances`; where the source ran in two precisions, they also decide which is to be used from now on."""
        exact = self.distances(target, source)
        self.precision.judge(lambda rows: self.distances(target, rows).mean(), exact.mean())
        return exact

    def measure(self, images: Tensor, **options: Any) -> Tensor:
        """Squared row difference between target and source, for diagnosis.

        Both run in eval mode without autograd, whatever mode the target is in.

        Args:
            images: (B, C, height, width), already normalised.
            options: keywords for the forward of both models.

        Returns:
            (guided layers, heads) float32: mean over images, queries and patch tokens of (t − s)².
        """
        self.bodies[0].check(images)
        with evaluating(self.model), torch.no_grad(), (tap := self.tap()):
            self.model(images, **options)
        target = captured(tap, self.bodies[0], self.layers, images)
        return torch.stack(
            [_squared(t, s).mean(0) for t, s in self._pairs(target, self.read_source(images, **options))]
        )

    def detach(self) -> nn.Module:
        """Let go of the source: from now on `guided(images)` gives (logits, 0). The model is as it always was.

        Returns:
            The model.
        """
        self._hidden_source = ()
        self.precision.forget()
        self.bodies = (self.bodies[0], self.bodies[0])
        return self.model

    def source_rows(self, images: Tensor, **options: Any) -> list[Reading]:
        """The source's rows of these images, without autograd, one reading per guided layer."""
        if options and self.precision.compiles:
            raise GtaError(
                f"source_compile=True cannot be used with keywords of the forward ({', '.join(options)}): it compiles "
                "one computation for all steps. Leave one of them out."
            )
        return self.in_its_precision(lambda images: self.read_source(images, **options), images)

    def in_its_precision(self, run: Callable[[Tensor], list[Reading]], images: Tensor) -> list[Reading]:
        """What `run` reads of the source, run in the precision of this step."""
        self.ready_source(images)
        return self.precision.rows(run, images, self.step // self.every)

    def read_source(self, images: Tensor, **options: Any) -> list[Reading]:
        """The same in the precision that is set, whatever the step."""
        self.ready_source(images)
        stem = None if self.precision.compiles else self._stem.of_source  # what is traced is not what is computed
        return read_rows(self.source, images, self.bodies[1], self.layers, self.rows, convolution=stem, **options)

    def ready_source(self, images: Tensor) -> None:
        """See to it that the source is in eval mode, where the target is, and can take the images."""
        if self.source.training:  # somebody called train() on it
            self.source.eval()
        ours, theirs = next(self.model.parameters()), next(self.source.parameters())
        if ours.device != theirs.device or ours.dtype != theirs.dtype:  # the model was moved without its guide
            self.source.to(ours.device, ours.dtype)
        self.bodies[1].check(images)

    def _pairs(self, target: list[Reading], source: list[Reading]) -> Iterator[tuple[Reading, Reading]]:
        for layer, t, s in zip(self.layers, target, source, strict=True):
            if t.shape != s.shape:
                raise GtaError(
                    f"layer {layer}: the target's rows are {t.shape} (images, heads, patches), the source's "
                    f"{s.shape}. Build both with the same heads and image size."
                )
            yield t, s

    def _distances(self, target: Reading, source: Reading) -> Tensor:
        if self.rows == "patches" and self._distance is DISTANCES["l2"]:
            squared = _squared(target, source)
            return squared if self.reduction == "mean" else squared * target.shape[-1]
        return self._distance(target.rows(), source.rows(), self.reduction)

    def _check_gradient(self, target: list[Reading]) -> None:
        if not torch.is_grad_enabled():
            return
        body: Anatomy = self.bodies[0]
        for layer, reading in zip(self.layers, target, strict=True):
            before = body.depth if self.rows == "pool" else layer
            if not reading.has_gradient and any(
                p.requires_grad for p in parameters_before_row(self.model, body, before)
            ):
                raise GtaError(
                    f"the attention row of layer {layer} carries no gradient although parameters before it are "
                    "trained, so the guide would do nothing. Reentrant gradient checkpointing does this: use "
                    "use_reentrant=False."
                )

    def extra_repr(self) -> str:
        return f"weight={self.weight}, layers={self.layers}, reduction={self.reduction!r}, rows={self.rows!r}"


def _squared(target: Reading, source: Reading) -> Tensor:
    """Squared difference, (B, H), mean over queries and patches."""
    if isinstance(target, Factors) and isinstance(source, Factors) and len(target.shape) == 4:
        return squared_difference(target, source)
    return (target.rows() - source.rows()).square().flatten(2).mean(-1)


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
