"""Methods composed: the target, its source and the methods, in one training step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gta.errors import GtaError
from gta.methods import METHODS, method_names
from gta.methods.base import Batches, Method, Step
from gta.schedules import factor
from gta.vit.capture import run_and_capture, run_within
from gta.vit.pair import ModelAndSource
from gta.vit.structure import vit_info

COMMON = ("weight", "layers", "guide", "rows", "distance")  # columns of every run's results, whatever its method

Settings = Mapping[str, Mapping[str, Any]]


class MethodOptions(Protocol):
    """What methods read of the training options; those with `top_level_options` also what their fields name."""

    @property
    def method(self) -> str: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def weight_schedule(self) -> str: ...
    @property
    def weight_share(self) -> float | None: ...


@dataclass
class FinishedStep(Step):
    """A finished step.

    Attributes:
        penalty: what the methods add to the loss, float32 scalar.
        hits: (B,) whether the target's first guess is the (stronger) label.
    """

    penalty: Tensor
    hits: Tensor


def make_methods(options: MethodOptions) -> list[Method]:
    """The methods of `options.method` with their options.

    Raises:
        GtaError: an option that is not known, out of range, or of a method that is not composed.
    """
    settings = complete_settings(options.method, options.settings)
    methods: list[Method] = []
    for name in method_names(options.method):
        kind = METHODS[name]
        given = {f.name: getattr(options, f.name) for f in fields(kind)} if kind.top_level_options else {}
        methods.append(kind(**given, **settings.get(name, {})))
    if options.weight_schedule != "constant" and not any(method.adds() for method in methods):
        raise GtaError(
            f"--weight-schedule {options.weight_schedule} has nothing to act on: {options.method} adds nothing to the "
            "loss. Leave it out, or choose a method that does, such as gta."
        )
    return methods


def complete_settings(method: str, settings: Settings) -> dict[str, dict[str, Any]]:
    """The methods' own options, `{method: {field: value}}`, with the defaults of those not given.

    Raises:
        GtaError: options of a method that is not composed, or that the method does not have.
    """
    names = method_names(method)
    for name, values in settings.items():
        known = set(own_options(name)) if name in METHODS else set()
        for key in values:
            if key not in known:
                hint = f"it has {', '.join(sorted(known))}" if known else "it has none"
                raise GtaError(f"--{name}.{key} is not an option of the method {name!r} ({hint}).")
        if values and name not in names:
            flags = ", ".join(f"--{name}.{key}" for key in values)
            others = "" if method in ("auto", "plain") else f"{method}+"
            raise GtaError(f"{flags}: --method {method} does not have {name}. Leave it out, or write {others}{name}.")
    chosen: dict[str, dict[str, Any]] = {}
    for name in names:
        given, defaults = settings.get(name, {}), own_options(name)
        if defaults:
            chosen[name] = {
                key: _like(default, given[key], f"--{name}.{key}") if key in given else default
                for key, default in defaults.items()
            }
    return chosen


def own_options(name: str) -> dict[str, Any]:
    """The options of a method's own, `--NAME.FIELD`, with their defaults."""
    return {} if METHODS[name].top_level_options else {f.name: f.default for f in fields(METHODS[name])}


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


class ComposedMethod(ModelAndSource):
    """A target and its source under several methods.

    Attributes:
        model: the target, unwrapped; its state_dict has no trace of the methods (LoRA's until `finish`).
        methods: those that freeze parameters first.
        own: modules of the methods themselves, by name, trained and checkpointed with the target.
    """

    def __init__(
        self,
        target: nn.Module,
        source: nn.Module,
        methods: Sequence[Method],
        schedule: str = "constant",
        share: float | None = None,
        attention: nn.Module | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        """
        Args:
            target, source: from `gta.new_target` and `gta.load_source`.
            methods: what is composed.
            schedule, share: of everything that is added to the loss, see `gta.schedules`.
            attention: a context manager that is entered around the target's pass, outside of all captures;
                checkpointed with it.
            class_weights: what an image of each class counts in the cross-entropy, (classes,); None: all the same.

        Raises:
            GtaError: methods that cannot be composed, or that cannot be used with this target and source.
        """
        super().__init__(target, source)
        freezing = [m.name for m in methods if m.freezes_parameters]
        if "lora" in freezing and len(freezing) > 1:
            raise GtaError(
                f"{' and '.join(freezing)} cannot be composed: lora freezes every weight but its own and the "
                "classifier's, and the other would freeze those."
            )
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.methods = sorted(methods, key=lambda m: not m.freezes_parameters)  # first what wraps, freezes and unwraps
        if len(self.crops) > 1:
            names = " and ".join(m.name for m in self.crops)
            raise GtaError(f"{names} cannot be composed: each says which part of a picture is shown.")
        self._schedule, self._share = schedule, share
        self.attention: Any = attention
        self._factor = factor(schedule, 0.0, share)  # refuses what is not known
        own = {method.name: method.attach(target, source) for method in self.methods}
        self.own = nn.ModuleDict({name: module for name, module in own.items() if module is not None})
        self._target_vit, self._source_vit = vit_info(target), vit_info(source)

    @property
    def looks(self) -> bool:
        """Whether a method must be told where the source looks in the training images."""
        return any(method.looks for method in self.methods)

    @property
    def edits(self) -> bool:
        """Whether a method changes training views."""
        return any(type(method).edit is not Method.edit for method in self.methods)

    @property
    def crops(self) -> list[Method]:
        """The methods that say what of an image is shown, in training and in prediction."""
        return [method for method in self.methods if type(method).box is not Method.box]

    @property
    def uses_masks(self) -> bool:
        """Whether a method is to be told the user's own masks."""
        return any(method.uses_masks() for method in self.methods)

    def edit(self, image: Tensor, rank: Tensor, another: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        """A training view as the methods change it; see `Method.edit`."""
        for method in self.methods:
            image = method.edit(image, rank, another)
        return image

    @property
    def restarts(self) -> list[float]:
        """Shares of training after which the learning rate's schedule begins anew, ascending."""
        return sorted({share for method in self.methods if (share := method.restart()) is not None})

    def prepare(self, batches: Batches) -> None:
        """Once, before the first step; `batches` iterates over (images, labels) on the model's device."""
        for method in self.methods:
            method.prepare(batches)

    def begin_step(self, done: int, steps: int) -> None:
        """Before each step: how many of how many are done."""
        self._factor = factor(self._schedule, done / max(1, steps), self._share)
        for method in self.methods:
            method.begin_step(done, steps)

    def forward(self, images: Tensor, labels: Tensor, stored: Mapping[str, Any] | None = None) -> FinishedStep:
        """One training step's forward pass.

        Args:
            images: (B, C, height, width), normalised.
            labels: (B,) int64.
            stored: by a method's name, what it captures of the source on these images, where that is known already.
        """
        mixer = self._mixer()
        targets = labels
        if mixer is not None:
            images, targets = mixer.mix(images, labels)
        acting = [m for m in self.methods if m is mixer or (not m.mixes() and (self._factor != 0 or not m.adds()))]
        source = self._capture_source(
            images, acting, stored or {}
        )  # first: its workspace is free again for the target's
        captures = {m.name: capture for m in acting if (capture := m.capture(self._target_vit)) is not None}
        with nullcontext() if self.attention is None else self.attention:
            logits: Tensor = run_within(list(captures.values()), lambda: self.model(images))
        target = {name: capture.read(images) for name, capture in captures.items()}
        if mixer is not None:
            targets = mixer.relabel(targets, target.get(mixer.name))
        loss = F.cross_entropy(logits.float(), targets, weight=self.class_weights)
        step = Step(images, targets, logits, loss)
        added = [
            penalty for m in acting if (penalty := m.penalty(target.get(m.name), source.get(m.name), step)) is not None
        ]
        penalty = self._factor * torch.stack(added).sum() if added else torch.zeros((), device=loss.device)
        strongest = targets if targets.ndim == 1 else targets.argmax(-1)
        return FinishedStep(images, targets, logits, loss, penalty, logits.detach().argmax(-1) == strongest)

    def _capture_source(self, images: Tensor, acting: Sequence[Method], stored: Mapping[str, Any]) -> dict[str, Any]:
        """By method, what it captures of the source, in one pass for all."""
        wanting = [
            m for m in acting if m.captures_source and m.name not in stored and m.capture(self._source_vit) is not None
        ]

        def read(images: Tensor) -> list[Any]:
            captures = [c for m in wanting if (c := m.capture(self._source_vit)) is not None]
            return run_and_capture(self.source, images, captures)

        if not wanting:
            return dict(stored)
        found = wanting[0].run_source(read, images) if len(wanting) == 1 else read(images)
        return {**stored, **dict(zip((m.name for m in wanting), found, strict=True))}

    def current_weight(self) -> float | Tensor | None:
        """λ of the last step, its schedule included, of the first method that records one."""
        found = [weight for method in self.methods if (weight := method.current_weight()) is not None]
        return self._factor * found[0] if found else None

    def describe(self) -> dict[str, Any]:
        """What results.json says of the methods."""
        described = {key: value for method in self.methods for key, value in method.describe().items()}
        scheduled = any(method.adds() for method in self.methods)
        return {**dict.fromkeys(COMMON), **described, "weight_schedule": self._schedule if scheduled else None}

    def finish(self) -> None:
        """Once, after training: the model is then what the methods give."""
        for method in self.methods:
            method.finish(self.model)

    def _mixer(self) -> Method | None:
        """The method that mixes this batch: where there are several, one drawn at random for each batch."""
        mixers = [method for method in self.methods if method.mixes()]
        if len(mixers) > 1:
            return mixers[int(torch.randint(len(mixers), ()))]
        return mixers[0] if mixers else None
