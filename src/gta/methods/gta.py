"""GTA: guided transfer of spatial attention (arXiv 2401.02656); the method itself is `gta.guidance`.

`guide` chooses what is held near the source's, as in the paper's table 3: the [cls] rows' logits (GTA), the rows after
softmax over all tokens, or all tokens' outputs of the attention modules or of the blocks.

`weight="auto"` sets λ by itself, in each step anew:

    λ = L / D · r · min(1, r),   r = mean over layers and heads of D(l, h) / A(l, h) / weight_budget

L: this batch's cross-entropy; D: this batch's mean distance from the source, D(l, h) that of one head; A(l, h), the
head's unit: the distance between the source's own rows on these and on other images. None passes a gradient. See
docs/methods.md for why.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from gta.acceleration.row_store import check_replay
from gta.acceleration.source_precision import ShortAttention, SourcePrecision
from gta.distances import TEMPERED, with_temperature
from gta.errors import GtaError
from gta.guidance import Guided
from gta.methods.base import Grid, Part, Step
from gta.vit.attention_logits import Factors, Finished, Queries, RowTap, read_rows
from gta.vit.attention_logits import Reading as Row
from gta.vit.outputs import Kind, LayerOutputs, read_outputs

LEAST_UNIT = 1e-3  # of the mean unit: a head that looks the same in every image must not decide alone


@dataclass
class GTA(Part):
    """Hold the [cls] attention near the source's; its options are --weight, --layers, --distance, --guide and more."""

    weight: float | str = 10.0
    weight_budget: float = 0.1
    layers: str | Sequence[int] = "all"
    layer_weights: Sequence[float] | None = None
    distance: str = "l2"
    temperature: float = 1.0
    guide: str = "logits"
    rows: Queries = "cls"
    every: int = 1
    source_precision: str = "auto"
    source_compile: bool = False

    paper: ClassVar[str] = "arXiv 2401.02656"
    flat: ClassVar[bool] = True
    grid: ClassVar[Grid] = {"weight": (0.1, 1, 10)}

    def __post_init__(self) -> None:
        if self.guide not in GUIDES:
            raise GtaError(f"--guide {self.guide} is not known: use one of {', '.join(GUIDES)}.")
        if self.distance in TEMPERED and self.guide != "logits":
            raise GtaError(
                f"--distance {self.distance} compares logits after a softmax of its own: use it with --guide logits, "
                f"or another distance with --guide {self.guide}."
            )
        if self.rows != "cls" and self.guide != "logits":
            raise GtaError(f"--rows {self.rows} chooses among logits: leave it out with --guide {self.guide}.")
        self._distance = with_temperature(self.distance, self.temperature)
        self._automatic = self.weight == "auto"

    def attach(self, target: nn.Module, source: nn.Module) -> nn.Module:
        self.guided = Guided(
            target,
            source,
            1.0 if self._automatic else self.weight,  # type: ignore[arg-type]
            self.layers,
            self._distance,
            "mean",
            self.rows,
            self.layer_weights,
            self.every,
            self.source_precision,
            self.source_compile,
        )
        self._reading: Reading | None = None
        self._strength: float | Tensor = self.guided.weight
        return _State(self.guided.precision)

    def begin_step(self, done: int, steps: int) -> None:
        self.guided.step = done

    def before(self, images: Tensor, rows: Tensor | None = None) -> None:
        self.guided.bodies[0].check(images)
        self._reading = None
        if self.guided.weight != 0 and self.guided.due():  # else the source need not run
            reading = self._reading = GUIDES[self.guide](self.guided)
            self._held: list[Row] = (
                self.guided.in_its_precision(reading.source, images)
                if rows is None
                else [Finished(row) for row in rows.float().unbind(1)]
            )

    def check_replay(self, images: Tensor, rows: Tensor) -> None:
        check_replay(rows, self.stored_rows(images))

    def stored_rows(self, images: Tensor) -> list[Tensor]:
        """What is stored where rows are reused: L tensors (B, H, N) float32.

        Computed as the target computes its own in the same precision, to the bit where both have the same weights: rows
        that were rounded otherwise, or not at all, would pull at the target from the first step on.
        """
        guided = self.guided
        guided.ready_source(images)

        def as_the_target(images: Tensor) -> None:
            with ShortAttention(always=True):  # inside of the tap, as around the target
                guided.source(images)

        return [row.rows() for row in read_rows(as_the_target, images, guided.bodies[1], guided.layers, guided.rows)]

    def watch(self) -> AbstractContextManager[Any]:
        return super().watch() if self._reading is None else self._reading.watch()

    def penalty(self, step: Step) -> Tensor | None:
        if self._reading is None:
            return None
        distances = self.guided.judged(self._reading.target(step.images), self._held)
        if self._automatic:
            self._strength = self._balanced(step.loss.detach(), distances.detach())
        return self.every * self._strength * distances.mean()

    def _balanced(self, loss: Tensor, distances: Tensor) -> Tensor:
        if self._held[0].shape[0] < 2:
            raise GtaError("--weight auto compares the images of a batch: use a --batch-size of at least 2 per device.")
        apart = self.guided.distances([_of_other_images(row) for row in self._held], self._held)
        least = (LEAST_UNIT * apart.mean()).clamp(min=torch.finfo(apart.dtype).eps)  # images that all look the same
        drift = (distances / apart.maximum(least)).mean() / self.weight_budget
        return loss * drift * drift.clamp(max=1) / distances.mean().clamp(min=torch.finfo(distances.dtype).tiny)

    def strength(self) -> float | Tensor:
        return self._strength


class _State(nn.Module):
    """What a resumed run must know to go on bit-identically: the precision that the source runs in."""

    def __init__(self, precision: SourcePrecision) -> None:
        super().__init__()
        self._precision = precision

    def get_extra_state(self) -> bool:
        return self._precision.lowered

    def set_extra_state(self, state: bool) -> None:
        self._precision.lowered = state


def _of_other_images(row: Row) -> Row:
    """The source's rows, each image's at its neighbour's place."""
    if isinstance(row, Factors):
        bias = row.bias.roll(1, 0) if row.bias is not None and row.bias.shape[0] == row.q.shape[0] else row.bias
        return Factors(row.q.roll(1, 0), row.k.roll(1, 0), row.scale, bias)
    return Finished(row.product.roll(1, 0))


class Reading(Protocol):
    """What of one batch is held near the source's; per guided layer a row whose last dimension is compared."""

    def source(self, images: Tensor) -> list[Row]:
        """Run the source, without autograd."""

    def watch(self) -> AbstractContextManager[Any]:
        """Entered around the target's forward pass."""

    def target(self, images: Tensor) -> list[Row]:
        """After it, the same of the target."""


class LogitRows:
    """The [cls] rows, (B, H, N)."""

    def __init__(self, guided: Guided) -> None:
        self.guided = guided

    def source(self, images: Tensor) -> list[Row]:
        return self.guided.read_source(images)

    def watch(self) -> RowTap:
        self._tap = self.guided.tap()
        return self._tap

    def target(self, images: Tensor) -> list[Row]:
        return self.guided.target_rows(self._tap, images)


class AttentionRows:
    """The [cls] attention over the patches, (B, H, N), after a softmax over all tokens."""

    def __init__(self, guided: Guided) -> None:
        self.guided = guided

    def source(self, images: Tensor) -> list[Row]:
        self.guided.ready_source(images)
        body = self.guided.bodies[1]
        rows = read_rows(self.guided.source, images, body, self.guided.layers, first_key=0)
        return _attention(rows, body.prefix_tokens)

    def watch(self) -> RowTap:
        self._tap = RowTap(self.guided.layers, 0)
        return self._tap

    def target(self, images: Tensor) -> list[Row]:
        return _attention(self.guided.target_rows(self._tap, images), self.guided.bodies[0].prefix_tokens)


def _attention(rows: list[Row], prefix_tokens: int) -> list[Row]:
    return [Finished(row.rows().softmax(-1)[..., prefix_tokens:]) for row in rows]


class Outputs:
    """All tokens' outputs of the guided layers, (B, P + N, width): of their attention modules or of the blocks."""

    kind: ClassVar[Kind]

    def __init__(self, guided: Guided) -> None:
        self.guided = guided

    def source(self, images: Tensor) -> list[Row]:
        self.guided.ready_source(images)
        outputs = read_outputs(self.guided.source, images, self.kind, self.guided.layers)
        return [Finished(output.float()) for output in outputs]

    def watch(self) -> LayerOutputs:
        self._seen = LayerOutputs(self.guided.model, self.kind, self.guided.layers)
        return self._seen

    def target(self, images: Tensor) -> list[Row]:
        return [Finished(output.float()) for output in self._seen.outputs()]


class AttentionOutputs(Outputs):
    kind = "msa"


class BlockOutputs(Outputs):
    kind = "block"


GUIDES: dict[str, type[LogitRows] | type[AttentionRows] | type[Outputs]] = {
    "logits": LogitRows,
    "attention": AttentionRows,
    "msa": AttentionOutputs,
    "block": BlockOutputs,
}
