"""What a method is: the seam that every file of this folder fills.

A method may say which parameters train (`attach`, `begin_step`, `finish`), what is added to the loss (`capture`,
`penalty`), and how batches are mixed (`mix`, `relabel`). It overrides what it needs; the rest does nothing. What it
wants to see of a model it captures; the composition captures it of the target and, in one pass for all methods, of the
source.

A method is a dataclass: its fields are the method's options on the command line, `--NAME.FIELD`, documented in its
docstring. What it does in a step depends on the step and not on the steps before, so that a resumed run stays
bit-identical; weights of its own live in the module that `attach` returns, and are checkpointed with the target.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor, nn

from gta.errors import GtaError
from gta.vit.capture import Capture
from gta.vit.structure import ViTInfo

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in shares of width and height
Grid = Mapping[str, Sequence[Any]]  # option -> values; `method.field` for a method's own


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
class Method:
    """Fine-tunes every parameter on cross-entropy alone: each hook's default.

    Attributes:
        name: on the command line; by default that of the file.
        paper: where it was published.
        freezes_parameters: for good.
        top_level_options: its fields are options of `TrainOptions` themselves.
        looks: it must be told where the source looks in the images: `box` or `edit` is called.
        captures_source: what it captures of the target is captured of the source too.
        grid: what gta compare tries of it at each learning rate.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    freezes_parameters: ClassVar[bool] = False
    top_level_options: ClassVar[bool] = False
    looks: ClassVar[bool] = False
    captures_source: ClassVar[bool] = True
    grid: ClassVar[Grid] = {"layer_decay": (0.7, 0.85, 1.0)}

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = cls.__module__.rpartition(".")[2]

    def attach(self, target: nn.Module, source: nn.Module) -> nn.Module | None:
        """Once, before the optimiser is made: freeze or wrap the target's parameters, keep what is needed.

        Returns:
            A module of the method's own, to be trained and checkpointed beside the target.
        """
        return None

    def restart(self) -> float | None:
        """Share of training after which the learning rate's schedule begins anew; None: never."""
        return None

    def prepare(self, batches: Batches) -> None:
        """Once, before the first step (also of a resumed run): look at the training images, unaugmented."""

    def uses_masks(self) -> bool:
        """Whether the user's own masks, where there are any, stand for where the source looks in `edit`."""
        return False

    def box(self, rank: Tensor, aspect: float) -> Box | None:
        """What of an image is shown, in training and in prediction; None: all of it.

        Args:
            rank: (h, w) of the image's patches, see `gta.vit.foreground.ranked`.
            aspect: the image's width over its height.
        """
        return None

    def edit(self, image: Tensor, rank: Tensor, another: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        """Change a training view after cropping and flipping, before RandAugment.

        Args:
            image: (3, size, size) uint8.
            rank: (size, size) float32, as in `box`, of its pixels.
            another: draws the view of any training image, and its ranks.

        Returns:
            (3, size, size) uint8.
        """
        return image

    def begin_step(self, done: int, steps: int) -> None:
        """Before each step: how many of how many are done."""

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch: (B, C, height, width) and (B,) labels in, images and (B, classes) probabilities out."""
        return images, labels

    def capture(self, vit: ViTInfo) -> Capture | None:
        """What is read of a forward pass of this model, the target or the source."""
        return None

    def run_source(self, read: Callable[[Tensor], list[Any]], images: Tensor) -> list[Any]:
        """Run the source's pass, where no other method needs it: what `read` gives."""
        return read(images)

    def relabel(self, targets: Tensor, target: Any) -> Tensor:
        """Of the method that mixed the batch, after the target's pass: the probabilities, given what was captured."""
        return targets

    def penalty(self, target: Any, source: Any, step: Step) -> Tensor | None:
        """What is added to the loss, a scalar; None for nothing.

        Args:
            target, source: what was captured of both; None where nothing was.
            step: the rest of the step.
        """
        return None

    def current_weight(self) -> float | Tensor | None:
        """The λ of the last step, where it is worth recording."""
        return None

    def finish(self, target: nn.Module) -> None:
        """Once, after training, before the result is evaluated and saved."""

    def describe(self) -> dict[str, Any]:
        """What results.json says of it."""
        return {f"{self.name}.{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def adds(cls) -> bool:
        """Whether it adds something to the loss."""
        return cls.penalty is not Method.penalty

    @classmethod
    def mixes(cls) -> bool:
        """Whether it mixes batches."""
        return cls.mix is not Method.mix


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


def check_number(method: Method, name: str, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Raise GtaError unless the option is finite and within [least, most]; with `above`, not at `least` either."""
    value = getattr(method, name)
    if not (math.isfinite(value) and least <= value <= most) or (above and value == least):
        lower = f"above {least}" if above else f"of {least} or more"
        upper = "" if most == math.inf else f", up to {most}"
        raise GtaError(f"--{method.name}.{name} {value} cannot be used: write a number {lower}{upper}.")
