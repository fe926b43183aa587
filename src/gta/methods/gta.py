"""GTA: guided transfer of spatial attention (arXiv 2401.02656); the method itself is `gta.guidance`.

`guide` chooses what is held near the source's, as in the paper's table 3: the [cls] rows' logits (GTA), the rows after
softmax over all tokens, or all tokens' outputs of the attention modules or of the blocks.

`weight="auto"` sets λ by itself, in each step anew:

    λ = L / D* · min(1, D / D*),   D* = weight_budget · D(source on these images, source on other images)

L: this batch's cross-entropy; D: this batch's mean distance from the source; neither passes a gradient. See
docs/methods.md for why.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from gta.distances import TEMPERED, with_temperature
from gta.errors import GtaError
from gta.guidance import Guided
from gta.methods.parts import Part, Step
from gta.outputs import Kind, LayerOutputs, read_outputs
from gta.taps import RowTap, anatomy, read_rows


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

    paper: ClassVar[str] = "arXiv 2401.02656"
    flat: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.guide not in GUIDES:
            raise GtaError(f"--guide {self.guide} is not known: use one of {', '.join(GUIDES)}.")
        if self.distance in TEMPERED and self.guide != "logits":
            raise GtaError(
                f"--distance {self.distance} compares logits after a softmax of its own: use it with --guide logits, "
                f"or another distance with --guide {self.guide}."
            )
        self._distance = with_temperature(self.distance, self.temperature)
        self._automatic = self.weight == "auto"

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._guided = Guided(
            target,
            source,
            1.0 if self._automatic else self.weight,  # type: ignore[arg-type]
            self.layers,
            self._distance,
            "mean",
            layer_weights=self.layer_weights,
        )
        self._reading: Reading | None = None
        self._strength: float | Tensor = self._guided.weight

    def before(self, images: Tensor) -> None:
        self._reading = None
        if self._guided.weight != 0:  # else the source need not run
            self._reading = GUIDES[self.guide](self._guided)
            self._held = self._reading.source(images)

    def watch(self) -> AbstractContextManager[Any]:
        return super().watch() if self._reading is None else self._reading.watch()

    def penalty(self, step: Step) -> Tensor | None:
        if self._reading is None:
            return None
        distance = self._guided.distance(self._reading.target(), self._held)
        if not self._automatic:
            return self._guided.weight * distance
        self._strength = self._balanced(step.loss.detach(), distance.detach())
        return self._strength * distance

    def _balanced(self, loss: Tensor, distance: Tensor) -> Tensor:
        if len(self._held[0]) < 2:
            raise GtaError("--weight auto compares the images of a batch: use a --batch-size of at least 2 per device.")
        others = [rows.roll(1, 0) for rows in self._held]
        budget = self.weight_budget * self._guided.distance(others, self._held)
        budget = budget.clamp(min=torch.finfo(budget.dtype).eps)  # images that all look the same
        return loss / budget * (distance / budget).clamp(max=1)

    def strength(self) -> float | Tensor:
        return self._strength


class Reading(Protocol):
    """What of one batch is held near the source's; per guided layer a tensor whose last dimension is compared."""

    def source(self, images: Tensor) -> list[Tensor]:
        """Run the source, without autograd."""

    def watch(self) -> AbstractContextManager[Any]:
        """Entered around the target's forward pass."""

    def target(self) -> list[Tensor]:
        """After it, the same of the target."""


class LogitRows:
    """The [cls] rows, (B, H, N)."""

    first_key: int | None = None  # the first patch

    def __init__(self, guided: Guided) -> None:
        self.guided = guided

    def source(self, images: Tensor) -> list[Tensor]:
        self._images = images
        self.guided.ready_source(images)
        source, layers = self.guided.source, self.guided.layers
        readings = read_rows(source, images, anatomy(source), layers, first_key=self.first_key)
        return [self._seen(reading.rows(), self.guided.first_patch[1]) for reading in readings]

    def watch(self) -> RowTap:
        first = self.guided.first_patch[0] if self.first_key is None else self.first_key
        self._tap = RowTap(self.guided.layers, first)
        return self._tap

    def target(self) -> list[Tensor]:
        readings = self.guided.target_readings(self._tap, self._images)
        return [self._seen(reading.rows(), self.guided.first_patch[0]) for reading in readings]

    def _seen(self, rows: Tensor, first_patch: int) -> Tensor:
        return rows


class AttentionRows(LogitRows):
    """The [cls] attention over the patches, (B, H, N), after a softmax over all tokens."""

    first_key = 0

    def _seen(self, rows: Tensor, first_patch: int) -> Tensor:
        return rows.softmax(-1)[..., first_patch:]


class Outputs:
    """All tokens' outputs of the guided layers, (B, P + N, width): of their attention modules or of the blocks."""

    kind: ClassVar[Kind]

    def __init__(self, guided: Guided) -> None:
        self.guided = guided

    def source(self, images: Tensor) -> list[Tensor]:
        self.guided.ready_source(images)
        outputs = read_outputs(self.guided.source, images, self.kind, self.guided.layers)
        return [output.float() for output in outputs]

    def watch(self) -> LayerOutputs:
        self._seen = LayerOutputs(self.guided.model, self.kind, self.guided.layers)
        return self._seen

    def target(self) -> list[Tensor]:
        return [output.float() for output in self._seen.outputs()]


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
