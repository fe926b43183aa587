"""Parts made one: the target, its source and the parts of a method, in one training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gta.acceleration.source_precision import ShortAttention
from gta.errors import GtaError
from gta.methods import METHODS, part_class, parts_of
from gta.methods.base import Batches, Part, Step, adds, mixes
from gta.schedules import factor

CHECKED = 4  # images of an epoch whose stored rows are compared with fresh ones

Settings = Mapping[str, Mapping[str, Any]]


class MethodOptions(Protocol):
    """What methods read of the training options; `gta` also reads those named as its fields."""

    @property
    def method(self) -> str: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def weight_schedule(self) -> str: ...
    @property
    def weight_share(self) -> float | None: ...


@dataclass
class Outcome(Step):
    """A finished step.

    Attributes:
        penalty: what the parts add to the loss, float32 scalar.
        hits: (B,) whether the target's first guess is the (stronger) label.
    """

    penalty: Tensor
    hits: Tensor


def make_parts(options: MethodOptions) -> list[Part]:
    """The parts of a method with their options.

    Raises:
        GtaError: an option that is not known, out of range, or of a part that the method does not have.
    """
    settings = complete_settings(options.method, options.settings)
    parts: list[Part] = []
    for name in parts_of(options.method):
        kind = part_class(name)
        flat = {f.name: getattr(options, f.name) for f in fields(kind)} if kind.flat else {}
        parts.append(kind(**flat, **settings.get(name, {})))
    if options.weight_schedule != "constant" and not any(map(adds, parts)):
        raise GtaError(
            f"--weight-schedule {options.weight_schedule} has nothing to act on: {options.method} adds nothing to the "
            "loss. Leave it out, or choose a method that does, such as gta."
        )
    return parts


def complete_settings(method: str, settings: Settings) -> dict[str, dict[str, Any]]:
    """The options of a method's own, `{part: {field: value}}`, with the defaults of those not given.

    Raises:
        GtaError: options of a part that the method does not have, or that the part does not have.
    """
    names = parts_of(method)
    for name, values in settings.items():
        known = {f.name for f in fields(part_class(name)) if not part_class(name).flat} if name in METHODS else set()
        for key in values:
            if key not in known:
                hint = f"it has {', '.join(sorted(known))}" if known else "it has none"
                raise GtaError(f"--{name}.{key} is no option of a method {name!r} ({hint}).")
        if values and name not in names:
            flags = ", ".join(f"--{name}.{key}" for key in values)
            raise GtaError(f"{flags}: the method {method} has no part {name}. Leave it out, or write {method}+{name}.")
    chosen: dict[str, dict[str, Any]] = {}
    for name in names:
        kind = part_class(name)
        if not kind.flat and fields(kind):
            given = settings.get(name, {})
            chosen[name] = {
                f.name: _like(f.default, given[f.name], f"--{name}.{f.name}") if f.name in given else f.default
                for f in fields(kind)
            }
    return chosen


def _like(default: Any, value: Any, flag: str) -> Any:
    """A value of the default's type; YAML gives 1e-3 as text and 1.0 for 1."""
    kind = type(default)
    try:
        converted = kind(value)
    except (TypeError, ValueError):
        converted = None
    if converted is None or isinstance(value, bool) or (kind is int and converted != float(value)):
        wanted = {"int": "a whole number", "float": "a number", "str": "text"}[kind.__name__]
        raise GtaError(f"{flag} {value} cannot be used: write {wanted}, such as {default}.")
    return converted


class Recipe(nn.Module):
    """A target and its source under the parts of a method.

    Attributes:
        model: the target, unwrapped; its state_dict has no trace of the parts (LoRA's until `finish`).
        source: the frozen source; no submodule, but it follows `.to(device)`.
        parts: those that choose parameters first.
        own: modules of the parts themselves, by part name, trained and checkpointed with the target.
    """

    model: nn.Module

    def __init__(
        self,
        target: nn.Module,
        source: nn.Module,
        parts: Sequence[Part],
        schedule: str = "constant",
        share: float | None = None,
    ) -> None:
        """
        Raises:
            GtaError: parts that cannot be composed, or that cannot be used with this target and source.
        """
        super().__init__()
        choosing = [part_name(p) for p in parts if p.chooses]
        if "lora" in choosing and len(choosing) > 1:
            raise GtaError(
                f"{' and '.join(choosing)} cannot be composed: lora freezes every weight but its own and the "
                "classifier's, and the other would freeze those."
            )
        factor(schedule, 0.0, share)  # refuses what is not known
        self.model = target
        self.parts = sorted(parts, key=lambda part: not part.chooses)  # first what wraps, freezes and, last, unwraps
        self._hidden_source = (source.requires_grad_(False).eval(),)  # in a tuple, so no submodule
        self._schedule, self._share = schedule, share
        self._factor = factor(schedule, 0.0, share)
        own = {part_name(part): part.attach(target, source) for part in self.parts}
        self.own = nn.ModuleDict({name: module for name, module in own.items() if module is not None})

    @property
    def source(self) -> nn.Module:
        return self._hidden_source[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Recipe:
        self.source._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @property
    def restarts(self) -> list[float]:
        """Shares of training after which the learning rate's schedule begins anew, ascending."""
        return sorted({share for part in self.parts if (share := part.restart()) is not None})

    def study(self, batches: Batches) -> None:
        """Once, before the first step; `batches` iterates over (images, labels) on the model's device."""
        for part in self.parts:
            part.study(batches)

    def begin_step(self, done: int, steps: int) -> None:
        """Before each step: how many of how many are done."""
        self._factor = factor(self._schedule, done / max(1, steps), self._share)
        for part in self.parts:
            part.begin_step(done, steps)

    def forward(self, images: Tensor, labels: Tensor, rows: Tensor | None = None) -> Outcome:
        """One training step's forward pass.

        Args:
            images: (B, C, height, width), normalised.
            labels: (B,) int64.
            rows: (B, L, H, N) float16, the source's rows of these images where they are stored.
        """
        mixer = self._mixer()
        targets = labels
        if mixer is not None:
            images, targets = mixer.mix(images, F.one_hot(labels, self._classes()).float())
        acting = [p for p in self.parts if p is mixer or (not mixes(p) and (self._factor != 0 or not adds(p)))]
        for part in acting:  # all that the source has to do comes first: its workspace is free again for the target's
            part.before(images, rows)
        with ExitStack() as watching:
            for part in acting:
                watching.enter_context(part.watch())
            watching.enter_context(ShortAttention())  # inside, so that rows are read where attention is in float32
            logits = self.model(images)
        if mixer is not None:
            targets = mixer.relabel(targets)
        loss = F.cross_entropy(logits.float(), targets)
        step = Step(images, targets, logits, loss)
        added = [penalty for part in acting if (penalty := part.penalty(step)) is not None]
        penalty = self._factor * torch.stack(added).sum() if added else torch.zeros((), device=loss.device)
        strongest = targets if targets.ndim == 1 else targets.argmax(-1)
        return Outcome(images, targets, logits, loss, penalty, logits.detach().argmax(-1) == strongest)

    def check_replay(self, images: Tensor, rows: Tensor) -> None:
        """Raise GtaError unless stored rows, (B, L, H, N), are what the source gives for some of these images."""
        for part in self.parts:
            part.check_replay(images[:CHECKED], rows[:CHECKED])

    def strength(self) -> float | Tensor | None:
        """λ of the last step, its schedule included, of the first part that records one."""
        found = [strength for part in self.parts if (strength := part.strength()) is not None]
        return self._factor * found[0] if found else None

    def finish(self) -> None:
        """Once, after training: the model is then what the method gives."""
        for part in self.parts:
            part.finish(self.model)

    def _mixer(self) -> Part | None:
        """The part that mixes this batch: where there are several, one drawn at random for each batch."""
        mixers = [part for part in self.parts if mixes(part)]
        if len(mixers) > 1:
            return mixers[int(torch.randint(len(mixers), ()))]
        return mixers[0] if mixers else None

    def _classes(self) -> int:
        return int(self.model.num_classes)  # type: ignore[arg-type]


def part_name(part: Part) -> str:
    """The name of the method whose file a part is from."""
    return type(part).__module__.rpartition(".")[2]
