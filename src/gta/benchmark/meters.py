"""Measure a piece of work: its time, interleaved with others, its memory, its FLOPs, the line that its cost follows."""

import gc
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Work = Callable[[], Any]
LEAST_SECONDS = 0.05  # what is quicker is repeated, so that the clock and Python weigh little


def interleaved(works: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each work, one number per round.

    Every round runs each work once, in an order that moves on by one from round to round, so that whatever else the
    machine does meets all alike. Each is run twice before, to warm up; the second run says how often it is repeated.
    """
    warm = {name: (clock(work, device), clock(work, device))[1] for name, work in works.items()}
    order, seconds = deque(works), {name: list[float]() for name in works}
    gc.collect()
    for _ in range(rounds):
        for name in order:
            repeats = max(1, math.ceil(LEAST_SECONDS / max(warm[name], 1e-6)))
            seconds[name].append(clock(works[name], device, repeats))
        order.rotate(-1)
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


def compared(seconds: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """An interleaved work beside another: its times, and median, lowest and highest of the rounds' ratios."""
    ratios = [one / two for one, two in zip(seconds, other, strict=True)]
    return {
        "seconds": list(seconds), "median_seconds": median(seconds),
        "ratio": median(ratios), "low": min(ratios), "high": max(ratios),
    }  # fmt: skip


class MemoryTracker(TorchDispatchMode):
    """While entered, follows the bytes of all storages that operations make, until they are freed.

    Storages that were there before are not counted, nor scratch that a kernel takes and frees within itself. Own code:
    PyTorch keeps a peak for GPUs only.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()  # ids of living storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._see((args, kwargs), new=False)
        out = func(*args, **(kwargs or {}))
        self._see(out, new=True)
        return out

    def _see(self, tensors: Any, new: bool) -> None:
        for storage in (leaf.untyped_storage() for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)):
            if id(storage) not in self._seen:
                size = storage.nbytes() if new else 0
                self._seen.add(id(storage))
                weakref.finalize(storage, self._freed, id(storage), size)
                self.now += size
                self.peak = max(self.peak, self.now)

    def _freed(self, storage: int, size: int) -> None:
        self._seen.remove(storage)
        self.now -= size


def peak_bytes(work: Work, device: torch.device) -> int:
    """The most memory taken at once beyond what was taken before: the device's own count, or `MemoryTracker`'s."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with MemoryTracker() as memory:
        work()
    return memory.peak


def saved_bytes(forward: Work, parameters: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward: each storage once, the parameters' left out."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # the tensor itself would hold its own graph, and the whole pass with it, for good

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()  # held until they are counted, for an address that is free again may be given anew
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    del output
    return sum(size for address, size in saved.items() if address not in own)


def flops(work: Work) -> int:
    """FLOPs of the matrix products and convolutions that a work makes, two for each multiplication and addition.

    Attention is counted multiplied out, as it is defined: two products forward, four backward, on every device alike. A
    fused kernel multiplies a fifth time, for it computes its map again. Norms, softmax, activations and the
    optimiser's step make no products and count nothing.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return int(counter.get_total_flops())


def line_through(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Least squares y = intercept + slope · x.

    Returns:
        intercept, slope; r2: share of y's variance on the line; residual: root mean square distance from it, as a share
        of y's mean.
    """
    from scipy.stats import linregress

    line = linregress(x, y)
    off = [b - line.intercept - line.slope * a for a, b in zip(x, y, strict=True)]
    return {
        "intercept": float(line.intercept),
        "slope": float(line.slope),
        "r2": float(line.rvalue**2) if min(y) < max(y) else 1.0,
        "residual": float(math.hypot(*off) / math.sqrt(len(off)) / fmean(y)),
    }
