"""What a method is made of: the seam that every file of this folder fills.

A part may say which parameters train (`attach`, `begin_step`, `finish`), what is added to the loss (`before`, `watch`,
`penalty`), and how batches are mixed (`mix`, `relabel`). It overrides what it needs; the rest does nothing. A part is
a dataclass: its fields are the method's options on the command line, `--NAME.FIELD`, documented in its docstring.
What it does in a step depends on the step and not on the steps before, so that a resumed run stays bit-identical;
weights of its own live in the module that `attach` returns, and are checkpointed with the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from gta.errors import GtaError

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
Grid = Mapping[str, Sequence[Any]]  # option -> values; `part.field` for a method's own


@dataclass
class Step:
    """One training step, as far as it has come.

    Attributes:
        images: (B, C, height, width) as both models see them, mixed where the method mixes.
        targets: (B,) labels, or (B, classes) probabilities where labels are mixed.
        logits: (B, classes) of the target.
        loss: cross-entropy, float32 scalar.
    """

    images: Tensor
    targets: Tensor
    logits: Tensor
    loss: Tensor


@dataclass
class Part:
    """Fine-tunes every parameter on cross-entropy alone: each hook's default."""

    paper: ClassVar[str] = ""
    chooses: ClassVar[bool] = False  # freezes parameters for good
    flat: ClassVar[bool] = False  # its fields are options of `TrainOptions` themselves
    grid: ClassVar[Grid] = {"layer_decay": (0.7, 0.85, 1.0)}  # what gta compare tries of it at each learning rate

    def attach(self, target: nn.Module, source: nn.Module) -> nn.Module | None:
        """Once, before the optimiser is made: freeze or wrap the target's parameters, keep what is needed.

        Returns:
            A module of the part's own, to be trained and checkpointed beside the target.
        """
        return None

    def restart(self) -> float | None:
        """Share of training after which the learning rate's schedule begins anew; None: never."""
        return None

    def study(self, batches: Batches) -> None:
        """Once, before the first step (also of a resumed run): look at the training images, unaugmented."""

    def begin_step(self, done: int, steps: int) -> None:
        """Before each step: how many of how many are done."""

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch: (B, C, height, width) and (B, classes) probabilities in, the same out."""
        return images, targets

    def before(self, images: Tensor, rows: Tensor | None = None) -> None:
        """Before the target runs: let the source see the batch.

        Args:
            images: (B, C, height, width).
            rows: (B, L, H, N) float16, the source's rows of these images where they are stored (`gta.acceleration.row_store`).
        """

    def check_replay(self, images: Tensor, rows: Tensor) -> None:
        """Raise GtaError unless stored rows, (B, L, H, N), are what the source gives for these images."""

    def watch(self) -> AbstractContextManager[Any]:
        """Entered around the target's forward pass."""
        return nullcontext()

    def relabel(self, targets: Tensor) -> Tensor:
        """After the target's forward pass, of the part that mixed the batch: its labels once more."""
        return targets

    def penalty(self, step: Step) -> Tensor | None:
        """What is added to the loss, a scalar; None for nothing."""
        return None

    def strength(self) -> float | Tensor | None:
        """The λ of the last step, where it is worth recording."""
        return None

    def finish(self, target: nn.Module) -> None:
        """Once, after training, before the result is evaluated and saved."""


def adds(part: Part | type[Part]) -> bool:
    """Whether it adds something to the loss."""
    return (part if isinstance(part, type) else type(part)).penalty is not Part.penalty


def mixes(part: Part | type[Part]) -> bool:
    """Whether it mixes batches."""
    return (part if isinstance(part, type) else type(part)).mix is not Part.mix


def classifier_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the model's classifier, or of both where it has two (distilled)."""
    heads: Any = model.get_classifier()  # type: ignore[operator]
    return [p for head in (heads if isinstance(heads, tuple) else (heads,)) for p in head.parameters()]


def train_only(target: nn.Module, keep: Callable[[str], bool]) -> None:
    """Freeze all parameters but the classifier's and those whose name `keep` accepts; what is frozen stays so."""
    classifier = {id(p) for p in classifier_of(target)}
    for name, parameter in target.named_parameters():
        if id(parameter) not in classifier and not keep(name):
            parameter.requires_grad_(False)


def check_number(part: Part, name: str, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Raise GtaError unless the option is finite and within [least, most]; with `above`, not at `least` either."""
    value = getattr(part, name)
    if not (math.isfinite(value) and least <= value <= most) or (above and value == least):
        lower = f"above {least}" if above else f"of {least} or more"
        upper = "" if most == math.inf else f", up to {most}"
        flag = f"{type(part).__module__.rpartition('.')[2]}.{name}"
        raise GtaError(f"--{flag} {value} cannot be used: write a number {lower}{upper}.")
