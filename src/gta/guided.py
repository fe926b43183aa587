"""The guide in a training loop of your own.

source = gta.load_source("dinov2.safetensors", image_size=126)
model = gta.new_target(source, num_classes=45)
guided = gta.guide(model, source, weight=10.0)
logits, penalty = guided(images)
loss = cross_entropy(logits, labels) + penalty
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gta.distances import Distance, Reduction
from gta.errors import GtaError
from gta.guidance import Guidance
from gta.schedules import factor
from gta.vit.attention_logits import AttentionLogits, Rows
from gta.vit.capture import evaluating, run_and_capture
from gta.vit.pair import ModelAndSource, row_pairs, squared_rows

T = TypeVar("T")


def guide(
    model: nn.Module,
    source: nn.Module,
    weight: float | str = 10.0,
    layers: str | int | Sequence[int] = "all",
    distance: str | Distance = "l2",
    reduction: Reduction = "mean",
    rows: Rows = "cls",
    layer_weights: Sequence[float] | None = None,
    *,
    quantity: str = "logits",
    temperature: float = 1.0,
    weight_budget: float = 0.1,
    free_heads: Sequence[tuple[int, int]] | None = None,
    schedule: str = "constant",
    schedule_length: float | None = None,
    steps: int | None = None,
    source_precision: str = "same",
    source_compile: bool | str = False,
) -> Guided:
    """Guide `model` by the attention of `source`.

    Args:
        model: the target: a ViT of timm, transformers or torchvision, or a module with one such inside. Used as
            it is, neither copied nor changed; it may be compiled, wrapped for several processes, or in part frozen.
        source: the frozen source of the same depth, heads and token grid; set to eval and frozen.
        weight: λ ≥ 0 (the paper tries 0.1, 1, 10 and 100); or "auto": set in each step from the loss and the drift.
        layers: "all", "last", or layer indices (negative ones count from the end).
        distance: a name in `gta.distances.DISTANCES`, or a function of that shape.
        reduction: over patch tokens, "mean" or "sum"; images, layers, heads and queries are always averaged.
        rows: whose attention is guided. "cls": the [cls] token's, as in the paper. "all", or "patches": the whole
            map, every patch's row, prefix tokens left out on both sides, also for models without [cls] (with "l2" no
            N×N map is built). "pool": the query of an attention-pooling head, one layer behind all others (SigLIP).
        layer_weights: factor ≥ 0 of each guided layer's distance, in layer order; None for 1 everywhere.
        quantity: what is held near the source's: the attention "logits", the "attention" after softmax, or the outputs
            of attention modules ("msa") or of blocks ("block"), as in the paper's table 3.
        temperature: divides the rows before the softmax of the distances that take one.
        weight_budget: drift that weight "auto" allows, as a share of how far the source's own attention is apart on
            different images.
        free_heads: (layer, head) pairs of guided layers that are left out of the guide.
        schedule: course of the weight, a name in `gta.schedules.SCHEDULES`; others than "constant" need `steps`.
        schedule_length: share of the training that the schedule takes; None for its usual one.
        steps: training steps in all.
        source_precision: "auto" is quicker: under autocast the source's weights are cast once; in float32 training its
            feed-forward layers compute in bf16 where the device is faster at it, while that changes the penalty by less
            than 1 %. "same" computes as the target does.
        source_compile: compile the source's pass up to its last row (torch.compile, once for each shape of the images,
            which takes a quarter of a minute; on CPUs it needs a C++ compiler). The rows are the same up to rounding.
            "auto" compiles where it pays, by the time of the source's pass: with `steps`, of those to come; without,
            once as long was spent as compiling would have saved. That depends on the clock, and the numbers with it.

    Returns:
        A module that maps images to (logits, penalty); with weight "auto", images and labels.

    Raises:
        GtaError: the models do not match, have no [cls] token, or an option is out of range.
    """
    guidance = Guidance(
        model, source, weight, weight_budget, quantity, distance, temperature, reduction, rows, layers, layer_weights,
        free_heads, source_precision, source_compile,
    )  # fmt: skip
    return Guided(model, source, guidance, schedule, schedule_length, steps)


class Guided(ModelAndSource):
    """A model and its guide; see `guide`.

    Attributes:
        guidance: what is captured, compared and weighed.
        step: forward passes made in training; set it where a resumed training shall go on as it would have.
    """

    def __init__(
        self,
        model: nn.Module,
        source: nn.Module,
        guidance: Guidance,
        schedule: str = "constant",
        schedule_length: float | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__(model, source)
        factor(schedule, 0.0, schedule_length)  # refuses what is not known
        if schedule != "constant" and (steps is None or steps < 1):
            raise GtaError(f"schedule={schedule!r} needs steps, the number of training steps in all, got {steps!r}.")
        self.guidance, self.step = guidance, 0
        self._schedule = (schedule, schedule_length, steps or 1)
        guidance.source_pass.steps = steps

    @property
    def weight(self) -> float | str:
        """λ, or "auto"; may be changed between steps."""
        return self.guidance.weight

    @weight.setter
    def weight(self, weight: float | str) -> None:
        self.guidance.weight = weight

    @property
    def layers(self) -> tuple[int, ...]:
        """The guided layers, ascending, non-negative."""
        return self.guidance.layers

    def forward(self, images: Tensor, labels: Tensor | None = None, **options: Any) -> tuple[Any, Tensor]:
        """Run target and, in training, source.

        Args:
            images: (B, C, height, width), already normalised for the model.
            labels: (B,) int64, or (B, classes) probabilities; needed by weight "auto", which follows the loss.
            options: keywords for the forward of both models, such as `interpolate_pos_encoding=True`.

        Returns:
            The model's logits (what it returns; the `logits` of a transformers output where it has them), and
            the penalty as a float32 scalar. In eval mode (of the model), at weight 0 and after `detach()` the
            source is not run and the penalty is zero.

        Raises:
            GtaError: images of a size the models cannot take; rows that were not captured, do not match, or
                have lost their gradient; no labels where weight "auto" needs them.
        """
        output, penalty_at = self.observe(images, lambda: self.model(images, **options), **options)
        logits = getattr(output, "logits", output)
        return logits, penalty_at(None if labels is None else cross_entropy(logits.float(), labels))

    def observe(
        self, images: Tensor, run: Callable[[], T], **options: Any
    ) -> tuple[T, Callable[[Tensor | None], Tensor]]:
        """A forward pass of the target that somebody else makes; see `forward`.

        Args:
            images: those the target is going to see.
            run: runs the target once on them.
            options: keywords for the source's forward.

        Returns:
            What `run` returned, and the penalty as a function of the batch's loss (None unless the weight is "auto").
        """
        guidance = self.guidance
        guidance.target.check(images)
        scale = self._scale()
        if not self.model.training or guidance.weight == 0 or scale == 0 or not self._hidden_source:
            return run(), lambda loss: torch.zeros((), device=images.device)
        source = self.capture_source(
            images, **options
        )  # first: its workspace is free again before the target's fills up
        capture = guidance.capture(guidance.target)
        with capture:
            output = run()
        target = capture.read(images)
        return output, lambda loss: scale * guidance.penalty(target, source, loss)

    def capture_source(self, images: Tensor, **options: Any) -> list[Any]:
        """What the guidance captures of the source on these images, without autograd, one entry per guided layer."""
        source, guidance = self.ready_source(), self.guidance
        guidance.source.check(images)
        if options and guidance.source_compile:
            raise GtaError(
                f"source_compile={guidance.source_compile!r} cannot be used with keywords of the forward "
                f"({', '.join(options)}): it compiles one computation for all steps. Leave one of them out."
            )

        def read(images: Tensor) -> list[Any]:
            found: list[Any] = run_and_capture(source, images, [guidance.capture(guidance.source)], **options)[0]
            return found

        return guidance.source_pass.run(read, images)

    def _scale(self) -> float:
        """The schedule's factor; counts the step."""
        schedule, length, steps = self._schedule
        if (
            not self.model.training or torch.compiler.is_compiling()
        ):  # a count would have it compiled anew in every step
            if schedule != "constant" and self.model.training:
                raise GtaError(
                    f"schedule={schedule!r} cannot be counted inside torch.compile: compile the model alone."
                )
            return 1.0
        self.step += 1
        return factor(schedule, min(1.0, (self.step - 1) / steps), length)

    def measure(self, images: Tensor, **options: Any) -> Tensor:
        """Squared row difference between target and source, for diagnosis, whatever quantity is guided.

        Both run in eval mode without autograd, whatever mode the target is in.

        Args:
            images: (B, C, height, width), already normalised.
            options: keywords for the forward of both models.

        Returns:
            (guided layers, heads) float32: mean over images, queries and patch tokens of (t − s)².
        """
        guidance, source = self.guidance, self.ready_source()
        guidance.target.check(images)
        read = []
        for model, info in ((self.model, guidance.target), (source, guidance.source)):
            capture = AttentionLogits(info, guidance.layers, guidance.rows)
            with evaluating(model), torch.no_grad(), capture:
                model(images, **options)
            read.append(capture.read(images))
        return torch.stack([squared_rows(t, s).mean(0) for t, s in row_pairs(guidance.layers, *read)])

    def detach(self) -> nn.Module:
        """Let go of the source: from now on `guided(images)` gives (logits, 0). The model is as it always was.

        Returns:
            The model.
        """
        self._hidden_source = ()
        self.guidance.release_source()
        return self.model

    def extra_repr(self) -> str:
        return f"weight={self.weight}, layers={self.layers}, rows={self.guidance.rows!r}"
