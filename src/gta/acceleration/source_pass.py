"""The source in a lower precision than the target, where that leaves the penalty alone.

Under autocast the source computes in what autocast computes in, as the target does; its weights are then cast once
and not in every step, and no bit is another. In float32 its feed-forward layers, two thirds of its work, compute in
bf16, and everything else, q and k above all, in float32. How far that moves the penalty is measured in the training
itself: in steps 4, 8, 16, 32 and then every 32 the source runs both ways, and until the next such step it runs in bf16
only if the penalty differed by less than 1 %. `benchmarks/source_precision.py` measures it (docs/cost.md).

The pass may be compiled, always or where that pays (`source_compile="auto"`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gta import devices
from gta.acceleration.compiled import CompiledSource
from gta.acceleration.timings import remembered
from gta.errors import GtaError
from gta.vit.capture import SourcePass
from gta.vit.structure import ViTInfo, is_compiled

TOLERANCE = 0.01  # of the penalty
FIRST_CHECKS = (4, 8, 16)
CHECK_EVERY = 32
COMPILING = 15.0  # seconds that it takes, as of a ViT-S on two cores
# Of the time of a pass, once it is compiled: between the 0.1 in float32 and the 0.37 in bf16 of docs/cost.md.
SAVED = 0.2

Read = Callable[[Tensor], list[Any]]


class AdaptivePass(SourcePass):
    """Decides in which precision the source runs.

    Attributes:
        feed_forward: weights of its feed-forward layers; None where they are not to be cast.
        lowered: whether these layers compute in bf16 outside autocast; kept from check to check, and checkpointed.
        step: of the training; counted here, or set before each step.
        compiles: as of `SourcePass`; checkpointed.
    """

    def __init__(self, source: nn.Module, info: ViTInfo, adaptive: bool = True, compiled: bool | str = False) -> None:
        """
        Args:
            source, info: the source, and what is known of it.
            adaptive: let feed-forward layers compute in bf16 in float32 training.
            compiled: compile the pass up to its last row, once for each shape of the images; "auto": where it pays and
                can be done.

        Raises:
            GtaError: a compiled source that is to be compiled.
        """
        super().__init__()
        if compiled is True and is_compiled(source):
            raise GtaError("the source is compiled already: leave source_compile out, which compiles less of it.")
        inside = {id(m) for attention in info.attentions for m in attention.modules()}
        linears = [(name, m) for name, m in source.named_modules() if isinstance(m, nn.Linear)]
        outside = [m for name, m in linears if id(m) not in inside and f".{info.stack}." in f".{name}"]
        usable = not is_compiled(source)  # a compiled pass has its weights built in
        self.all = CastWeights(m for _, m in linears) if usable else None
        self.feed_forward = CastWeights(outside) if usable and outside and adaptive else None
        self.lowered = False
        self._trial: list[Any] | None = None
        self._compiled = CompiledSource(source) if compiled and usable else None
        self._auto, self._spent = compiled == "auto", 0.0
        self.compiles = None if self._auto and usable else bool(compiled and usable)
        self._size = sum(p.numel() for p in source.parameters())

    def run(self, read: Read, images: Tensor) -> list[Any]:
        """What `read` captures, in the precision of this step."""
        if torch.compiler.is_compiling():
            return read(images)
        step, self.step, self._trial = self.step, self.step + 1, None
        device = images.device
        if torch.is_autocast_enabled(device.type):
            return self._pass(read, images, self.all, torch.get_autocast_dtype(device.type))
        if self.feed_forward is None or not devices.has_fast_bf16(device):
            return self._pass(read, images, None)
        if step in FIRST_CHECKS or (step and step % CHECK_EVERY == 0):
            self._trial = self._pass(read, images, self.feed_forward)
            return self._pass(read, images, None)
        return self._pass(read, images, self.feed_forward if self.lowered else None)

    def _pass(
        self, read: Read, images: Tensor, weights: CastWeights | None, dtype: torch.dtype = torch.bfloat16
    ) -> list[Any]:
        def eager(images: Tensor) -> list[Any]:
            return with_weights(read, images, weights, dtype)

        if self.compiles is None and self.steps is not None:
            what = f"{self._size} weights, {tuple(images.shape)}, {dtype if weights else 32}"
            each = remembered("source_pass.json", what, lambda: min(_seconds(eager, images)[1] for _ in range(3)))
            self.compiles = (self.steps - self.step + 1) * each * SAVED > COMPILING
        if self.compiles is None:  # as skis are rented until the rent would have bought them: at most twice the best
            found, seconds = _seconds(eager, images)
            self._spent += seconds
            self.compiles = self._spent * SAVED >= COMPILING or None
            return found
        if not self.compiles or self._compiled is None:
            return eager(images)
        try:
            if weights is None or weights is self.all:  # as it is, or as autocast casts it
                return self._compiled.rows(read, images, "as it is")
            return self._compiled.rows(eager, images, "feed-forward cast")
        except GtaError:
            if not self._auto:
                raise
            self.compiles = False  # it cannot be done here
            return eager(images)

    def check(self, distance: Callable[[list[Any]], Tensor], exact: Tensor) -> None:
        """In a step of a check: whether the distance from the rows in bf16 is within 1 % of the exact one."""
        if self._trial is not None:
            with torch.no_grad():
                self.lowered = bool((distance(self._trial) - exact).abs() <= TOLERANCE * exact)
            self._trial = None

    def copied_bytes(self) -> int:
        """Of the weights' copies in lower precision."""
        return sum(copies.bytes() for copies in (self.all, self.feed_forward, self._compiled) if copies is not None)

    def get_extra_state(self) -> dict[str, Any]:
        return {"lowered": self.lowered, "compiles": self.compiles, "spent": self._spent}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.lowered, self.compiles, self._spent = state["lowered"], state["compiles"], state["spent"]


def _seconds(read: Read, images: Tensor) -> tuple[list[Any], float]:
    """What a pass captures, and what it took; on a GPU until it was launched."""
    began = time.perf_counter()
    return read(images), time.perf_counter() - began


class CastWeights:
    """Copies of linear layers' weights in a lower precision, made when first needed and again when they change."""

    def __init__(self, linears: Iterable[nn.Linear]) -> None:
        self._linears = list(linears)
        self._copies: dict[int, tuple[tuple[Any, ...], Tensor]] = {}

    def ids(self) -> frozenset[int]:
        """Of the weights as they are now."""
        return frozenset(id(m.weight) for m in self._linears)

    def get(self, parameter: Tensor, dtype: torch.dtype) -> Tensor:
        state = (parameter._version, parameter.data_ptr(), parameter.device, dtype)
        found = self._copies.get(id(parameter))
        if found is None or found[0] != state:
            found = self._copies[id(parameter)] = (state, parameter.detach().to(dtype))
        return found[1]

    def bytes(self) -> int:
        return sum(copy.numel() * copy.element_size() for _, copy in self._copies.values())


def with_weights(read: Read, images: Tensor, weights: CastWeights | None, dtype: torch.dtype) -> list[Any]:
    """What `read` captures while the linear layers of these weights compute in `dtype`; None for none."""
    if weights is None:
        return read(images)
    with _CastLinears(weights, dtype):
        return read(images)


class _CastLinears(TorchFunctionMode):
    def __init__(self, weights: CastWeights, dtype: torch.dtype) -> None:
        super().__init__()
        self._weights, self._ids, self._dtype = weights, weights.ids(), dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._linear(*args, **(kwargs or {})) if func is F.linear else func(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if id(weight) not in self._ids:
            return F.linear(input, weight, bias)
        cast_bias = None if bias is None else self._weights.get(bias, self._dtype)
        return F.linear(input.to(self._dtype), self._weights.get(weight, self._dtype), cast_bias)
