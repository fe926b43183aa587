"""Measure a piece of work: its time in turn with others, its memory, its FLOPs, and the line that its cost follows."""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Work = Callable[[], Any]
LEAST_SECONDS = 0.05  # what is quicker is repeated, so that the clock and Python weigh little


def in_turn(works: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each work, one number per round.

    Every round runs each work once, in an order that moves on by one from round to round, so that whatever else the
    machine does meets all alike. Two rounds before warm up; the second of them says how often a quick work is repeated.
    """
    repeats = {}
    for name, work in works.items():
        clock(work, device)
        repeats[name] = max(1, math.ceil(LEAST_SECONDS / max(clock(work, device), 1e-6)))
    names, seconds = list(works), {name: list[float]() for name in works}
    gc.collect()
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            seconds[name].append(clock(works[name], device, repeats[name]))
    return seconds


def clock(work: Work, device: torch.device, repeats: int = 1) -> float:
    """Seconds of one run, mean over the repeats; a GPU's queue is empty before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return (time.perf_counter() - began) / repeats


def compared(seconds: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """The ratio of two works measured in turn: median, lowest and highest of the rounds' ratios."""
    ratios = [one / two for one, two in zip(seconds, other, strict=True)]
    return {"ratio": median(ratios), "low": min(ratios), "high": max(ratios)}


# --- memory -----------------------------------------------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """While entered, follows the bytes of all storages that operations make, until they are freed.

    Storages that were there before are not counted, nor scratch that a kernel takes and frees within itself.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor, new=False)
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._meet(tensor, new=True)
        return out

    def _meet(self, tensor: Tensor, new: bool) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return
        size = storage.nbytes() if new else 0

        def freed(_: Any) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


def _tensors(tree: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def peak_bytes(work: Work, device: torch.device) -> int:
    """The most memory that is taken at once beyond what was taken before: the device's own count, or `LiveBytes`."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as live:
        work()
    return live.peak


def saved_bytes(forward: Work, parameters: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward: each storage once, the parameters' left out."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward()  # held until they are counted, for an address that is free again may be given anew
    for parameter in parameters:
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    del kept
    return sum(saved.values())


# --- FLOPs ------------------------------------------------------------------------------------------------


def flops(work: Work) -> int:
    """FLOPs of the matrix products and convolutions that a work makes, two for each multiplication and addition.

    Attention is counted multiplied out, as it is defined: two products forward, four backward, on every device alike. A
    fused kernel multiplies a fifth time, for it computes its map again. Norms, softmax, activations and the
    optimiser's step make no products and count nothing.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    of_source = (
        {torch.ops.mkldnn._linear_pointwise: _linear_flops} if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {}
    )
    with FlopCounterMode(display=False, custom_mapping=of_source) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return int(counter.get_total_flops())


def _linear_flops(x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **unused: Any) -> int:
    return 2 * math.prod(x) * weight[0]


# --- growth -----------------------------------------------------------------------------------------------


def line_through(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Least squares y = intercept + slope · x.

    Returns:
        intercept, slope; r2: share of y's variance on the line; residual: root mean square distance from it, as a share
        of y's mean.
    """
    mx, my = mean(x), mean(y)
    slope = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)
    intercept = my - slope * mx
    off = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    varied = sum((b - my) ** 2 for b in y)
    r2 = 1 - off / varied if varied else 1.0
    return {"intercept": intercept, "slope": slope, "r2": r2, "residual": math.sqrt(off / len(y)) / my}
