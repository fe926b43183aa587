"""The source in a lower precision than the target, where that leaves the penalty alone.

Under autocast the source computes in what autocast computes in, as the target does; its weights are then cast once and
not in every step, which changes no bit. In float32 its feed-forward layers, two thirds of its work, compute in bf16,
and everything else, q and k above all, in float32. How far that moves the penalty is measured in the training itself:
in steps 4, 8, 16, 32 and then every 32 the source runs both ways, and until the next such step it runs in bf16 only if
the penalty differed by less than 1 %. `benchmarks/source_precision.py` measures it (docs/cost.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gta.anatomy import Anatomy, is_compiled
from gta.errors import GtaError
from gta.taps import Reading

TOLERANCE = 0.01  # of the penalty
FIRST_CHECKS = (4, 8, 16)
CHECK_EVERY = 32

Run = Callable[[], list[Reading]]


class SourcePrecision:
    """Decides in which precision the source runs.

    Attributes:
        forward: weights of its feed-forward layers; None where they are not to be lowered.
        lowered: whether these layers compute in bf16 outside autocast; kept from check to check.
    """

    def __init__(self, source: nn.Module, body: Anatomy, precision: str = "auto") -> None:
        if precision not in ("auto", "same"):
            raise GtaError(f'source_precision={precision!r} is not known: use "auto" or "same".')
        inside = {id(m) for attention in body.attentions for m in attention.modules()}
        linears = [(name, m) for name, m in source.named_modules() if isinstance(m, nn.Linear)]
        usable = not is_compiled(source)  # a compiled pass has its weights built in
        self._all = LowWeights(m for _, m in linears) if usable else None
        forward = [m for name, m in linears if id(m) not in inside and f".{body.stack}." in f".{name}"]
        self.forward = LowWeights(forward) if usable and forward and precision == "auto" else None
        self.lowered = False
        self._trial: list[Reading] | None = None

    def rows(self, run: Run, device: torch.device, step: int) -> list[Reading]:
        """What `run`, the source's forward pass, reads, in the precision of this step."""
        if torch.compiler.is_compiling():
            return run()
        self._trial = None
        if torch.is_autocast_enabled(device.type):
            with lowering(self._all, torch.get_autocast_dtype(device.type)):
                return run()
        if self.forward is None or not has_fast_bf16(device):
            return run()
        if step in FIRST_CHECKS or (step and step % CHECK_EVERY == 0):
            with lowering(self.forward, torch.bfloat16):
                self._trial = run()
            return run()
        with lowering(self.forward if self.lowered else None, torch.bfloat16):
            return run()

    def copied_bytes(self) -> int:
        """Of the weights' copies in lower precision."""
        return sum(low.bytes() for low in (self._all, self.forward) if low is not None)

    def forget(self) -> None:
        """Let go of the source's weights."""
        self._all = self.forward = None

    def judge(self, distance: Callable[[list[Reading]], Tensor], exact: Tensor) -> None:
        """After a step of a check: is the penalty of the lower precision, `distance` of its rows, `exact` enough?"""
        if self._trial is not None:
            with torch.no_grad():
                self.lowered = bool((distance(self._trial) - exact).abs() <= TOLERANCE * exact)
            self._trial = None


class LowWeights:
    """Copies of linear layers' weights in a lower precision, made when first needed and again when they change."""

    def __init__(self, linears: Iterable[nn.Linear]) -> None:
        self._linears = list(linears)
        self._copies: dict[int, tuple[tuple[Any, ...], Tensor]] = {}

    def own(self) -> set[int]:
        """The ids of the weights as they are now."""
        return {id(m.weight) for m in self._linears}

    def bytes(self) -> int:
        return sum(copy.numel() * copy.element_size() for _, copy in self._copies.values())

    def get(self, parameter: Tensor, dtype: torch.dtype) -> Tensor:
        state = (parameter._version, parameter.data_ptr(), parameter.device, dtype)
        found = self._copies.get(id(parameter))
        if found is None or found[0] != state:
            found = self._copies[id(parameter)] = (state, parameter.detach().to(dtype))
        return found[1]


def lowering(weights: LowWeights | None, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """While entered, the linear layers of these weights compute in `dtype`; None for none."""
    return nullcontext() if weights is None else _Lower(weights, dtype)


class _Lower(TorchFunctionMode):
    """While entered, linear layers whose weights are given compute in `dtype`."""

    def __init__(self, weights: LowWeights, dtype: torch.dtype) -> None:
        super().__init__()
        self._weights, self._own, self._dtype = weights, weights.own(), dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return self._linear(*args, **kwargs) if func is F.linear else func(*args, **kwargs)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if id(weight) not in self._own:
            return F.linear(x, weight, bias)
        low = None if bias is None else self._weights.get(bias, self._dtype)
        return F.linear(x.to(self._dtype), self._weights.get(weight, self._dtype), low)


class ShortAttention(TorchFunctionMode):
    """While entered, attention over few tokens computes in float32 on CPUs where autocast would have it in bf16.

    That is more exact, and faster: torch's fused kernel takes 2 to 3 times as long backward in bf16 as in float32.
    `gta bench` compares it as `plain` with `plain as it comes` (716 against 901 ms a step, docs/cost.md). With more
    tokens it loses: at 257 it was 5 % slower.
    """

    TOKENS = 128

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
        return low and query.requires_grad and query.shape[-2] <= self.TOKENS


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16; without them PyTorch emulates it, on CPUs 25 times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
