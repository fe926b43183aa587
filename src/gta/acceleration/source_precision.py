"""The source in a lower precision than the target, where that leaves the penalty alone.

Under autocast the source computes in what autocast computes in, as the target does; its weights are then cast once and
not in every step. In float32 its feed-forward layers, two thirds of its work, compute in bf16, and everything else, q
and k above all, in float32. How far that moves the penalty is measured in the training itself: in steps 4, 8, 16, 32
and then every 32 the source runs both ways, and until the next such step it runs in bf16 only if the penalty differed
by less than 1 %. `benchmarks/source_precision.py` measures it (docs/cost.md).

On CPUs the source's linear layers in bf16 are oneDNN's, which add the bias and apply GELU before they round: one
rounding instead of three, and a pass through memory less. A compiled source (`gta.acceleration.compiled`) fuses more than that.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gta.acceleration.compiled import CompiledSource
from gta.errors import GtaError
from gta.vit.attention_logits import Reading
from gta.vit.structure import Anatomy, is_compiled

TOLERANCE = 0.01  # of the penalty
FIRST_CHECKS = (4, 8, 16)
CHECK_EVERY = 32

Run = Callable[[Tensor], list[Reading]]


class SourcePrecision:
    """Decides in which precision the source runs.

    Attributes:
        forward: weights of its feed-forward layers; None where they are not to be lowered.
        lowered: whether these layers compute in bf16 outside autocast; kept from check to check.
    """

    def __init__(self, source: nn.Module, body: Anatomy, precision: str = "auto", compiled: bool = False) -> None:
        if compiled and is_compiled(source):
            raise GtaError("the source is compiled already: leave source_compile out, which compiles less of it.")
        if precision not in ("auto", "same"):
            raise GtaError(f'source_precision={precision!r} is not known: use "auto" or "same".')
        inside = {id(m) for attention in body.attentions for m in attention.modules()}
        linears = [(name, m) for name, m in source.named_modules() if isinstance(m, nn.Linear)]
        usable = not is_compiled(source)  # a compiled pass has its weights built in
        self._all = LowWeights(m for _, m in linears) if usable else None
        forward = [m for name, m in linears if id(m) not in inside and f".{body.stack}." in f".{name}"]
        self.forward = LowWeights(forward) if usable and forward and precision == "auto" else None
        self.lowered = False
        self._compiled = CompiledSource(source) if compiled else None
        self._trial: list[Reading] | None = None

    def rows(self, run: Run, images: Tensor, step: int) -> list[Reading]:
        """What `run`, the source's forward pass, reads, in the precision of this step."""
        if torch.compiler.is_compiling():
            return run(images)
        self._trial = None
        device = images.device
        if torch.is_autocast_enabled(device.type):
            return self._pass(run, images, self._all, torch.get_autocast_dtype(device.type))
        if self.forward is None or not has_fast_bf16(device):
            return self._pass(run, images, None)
        if step in FIRST_CHECKS or (step and step % CHECK_EVERY == 0):
            self._trial = self._pass(run, images, self.forward)
            return self._pass(run, images, None)
        return self._pass(run, images, self.forward if self.lowered else None)

    @property
    def compiles(self) -> bool:
        return self._compiled is not None

    def _pass(
        self, run: Run, images: Tensor, weights: LowWeights | None, dtype: torch.dtype = torch.bfloat16
    ) -> list[Reading]:
        if self._compiled is None:
            return lowered(run, images, weights, dtype)
        if weights is None or weights is self._all:  # as it is, or as autocast casts it
            return self._compiled.rows(run, images, "whole")
        return self._compiled.rows(lambda images: lowered(run, images, weights, dtype, fused=False), images, "lowered")

    def copied_bytes(self) -> int:
        """Of the weights' copies in lower precision."""
        return sum(copies.bytes() for copies in (self._all, self.forward, self._compiled) if copies is not None)

    def forget(self) -> None:
        """Let go of the source's weights."""
        self._all = self.forward = self._compiled = None

    def judge(self, distance: Callable[[list[Reading]], Tensor], exact: Tensor) -> None:
        """After a step of a check: is the penalty of the lower precision, `distance` of its rows, `exact` enough?"""
        if self._trial is not None:
            with torch.no_grad():
                self.lowered = bool((distance(self._trial) - exact).abs() <= TOLERANCE * exact)
            self._trial = None


def lowered(
    run: Run, images: Tensor, weights: LowWeights | None, dtype: torch.dtype, fused: bool = True
) -> list[Reading]:
    """What `run` reads while the linear layers of these weights compute in `dtype`; None for none.

    `fused` lets them be oneDNN's, with bias and GELU.
    """
    if weights is None:
        return run(images)
    fused = fused and _has_fused(images.device, dtype)
    if fused and weights.activations is None:
        with _Study(weights):  # a pass of its own, so that all that count are alike, also in a resumed training
            run(images)
    with _Lower(weights, dtype, fused):
        return run(images)


class LowWeights:
    """Copies of linear layers' weights in a lower precision, made when first needed and again when they change.

    Attributes:
        activations: per layer the kind of GELU that its output goes to and nowhere else ("none" for the exact one,
            "tanh"), or None; unknown before a `_Study`.
    """

    def __init__(self, linears: Iterable[nn.Linear]) -> None:
        self._linears = list(linears)
        self._copies: dict[int, tuple[tuple[Any, ...], Tensor]] = {}
        self.activations: list[str | None] | None = None

    def own(self) -> dict[int, str | None]:
        """By the ids of the weights as they are now: `activations`."""
        kinds = self.activations or [None] * len(self._linears)
        return {id(m.weight): kind for m, kind in zip(self._linears, kinds, strict=True)}

    def learn(self, kinds: dict[int, str]) -> None:
        """Set `activations`, by the ids of the weights."""
        self.activations = [kinds.get(id(m.weight)) for m in self._linears]

    def bytes(self) -> int:
        return sum(copy.numel() * copy.element_size() for _, copy in self._copies.values())

    def get(self, parameter: Tensor, dtype: torch.dtype) -> Tensor:
        state = (parameter._version, parameter.data_ptr(), parameter.device, dtype)
        found = self._copies.get(id(parameter))
        if found is None or found[0] != state:
            found = self._copies[id(parameter)] = (state, parameter.detach().to(dtype))
        return found[1]


class _Lower(TorchFunctionMode):
    """While entered, linear layers whose weights are given compute in `dtype`.

    Where GELU is part of a layer's product, whoever looks at the layer's output (a hook) sees it after GELU.
    """

    def __init__(self, weights: LowWeights, dtype: torch.dtype, fused: bool) -> None:
        super().__init__()
        self._weights, self._own, self._dtype, self._fused = weights, weights.own(), dtype, fused
        self._activated: Tensor | None = None  # a layer's output after GELU, until the model asks for it

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if func is F.gelu and self._activated is not None and args[0] is self._activated:
            self._activated = None
            return args[0]
        return func(*args, **kwargs)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if id(weight) not in self._own:
            return F.linear(input, weight, bias)
        low = None if bias is None else self._weights.get(bias, self._dtype)
        x, weight, kind = input.to(self._dtype), self._weights.get(weight, self._dtype), self._own[id(weight)]
        assert self._activated is None, "a layer's output did not go to GELU as it did at first"
        if not self._fused:
            return F.linear(x, weight, low)
        what, how = ("none", "") if kind is None else ("gelu", kind)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, low, what, [], how)
        self._activated = None if kind is None else out
        return out


class _Study(TorchFunctionMode):
    """While entered, finds the linear layers whose output goes to GELU and nowhere else.

    That is: GELU is the very next call, and when the one after it comes the output has been freed.
    """

    def __init__(self, weights: LowWeights) -> None:
        super().__init__()
        self._weights, self._own = weights, weights.own()
        self._used: Counter[int] = Counter()
        self._found: Counter[tuple[int, str]] = Counter()
        self._last: tuple[int, weakref.ref[Tensor]] | None = None  # the layer that was the last call
        self._pair: tuple[int, str, weakref.ref[Tensor]] | None = None  # the layer and GELU that were

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._settle()
        last, self._last = self._last, None
        out = func(*args, **kwargs)
        weight = id(args[1] if len(args) > 1 else kwargs.get("weight")) if func is F.linear else None
        if weight in self._own:
            self._used[weight] += 1
            self._last = weight, weakref.ref(out)
        elif func is F.gelu and last is not None and last[1]() is args[0]:
            self._pair = last[0], kwargs.get("approximate", "none"), last[1]
        return out

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._settle()
        kinds = {weight: kind for (weight, kind), times in self._found.items() if times == self._used[weight]}
        self._weights.learn(kinds)

    def _settle(self) -> None:
        if self._pair is not None and self._pair[2]() is None:
            self._found[self._pair[:2]] += 1
        self._pair = None


def _has_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a product with bias and GELU in one, the one that torch.compile uses on CPUs."""
    known = device.type == "cpu" and dtype == torch.bfloat16 and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class ShortAttention(TorchFunctionMode):
    """While entered, attention over few tokens computes in float32 on CPUs where autocast would have it in bf16.

    That is more exact, and faster: torch's fused kernel takes 2 to 3 times as long backward in bf16 as in float32.
    `gta bench` compares it as `plain` with `plain as it comes` (717 against 910 ms a step, docs/cost.md). With more
    tokens it loses: at 257 it was 5 % slower.
    """

    TOKENS = 128

    def __init__(self, always: bool = False) -> None:
        """`always`: also where no gradient is needed, so that it is not faster."""
        super().__init__()
        self._always = always

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) > 2 and self._concerns(args[0]):
            query, key, value, *rest = args
            with torch.autocast("cpu", enabled=False):
                return func(query.float(), key.float(), value.float(), *rest, **kwargs).to(query.dtype)
        return func(*args, **kwargs)

    def _concerns(self, query: Tensor) -> bool:
        low = query.device.type == "cpu" and query.dtype == torch.bfloat16
        return low and (self._always or query.requires_grad) and query.shape[-2] <= self.TOKENS


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16; without them PyTorch emulates it, on CPUs 25 times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
