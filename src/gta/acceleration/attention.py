"""Attention by the kernel that is quickest here, forward and backward, of those that are exact enough."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gta.acceleration.timings import remembered
from gta.vit.capture import entered
from gta.vit.multiplied import MultipliedAttention

Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]

TOKENS = 300  # above, maps are too large to keep
MARGIN = 0.9  # of the fused kernel's time: another must take less, or noise would choose
ERROR = 0.03  # norm of the error of output and gradients, as a share of theirs; the fused kernel reaches 0.1 on DINOv2
ROUNDS, MOST_ROUNDS = 5, 50  # of timing
ENOUGH = 2.0  # seconds of it


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def _in_float32(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    with torch.autocast(q.device.type, enabled=False):
        return _fused(q.float(), k.float(), v.float(), scale).to(v.dtype)


def _multiplied(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    out: Tensor = MultipliedAttention.apply(q, k, v, scale, None)[0]  # type: ignore[no-untyped-call]
    return out


KERNELS: dict[str, Kernel] = {"fused": _fused, "float32": _in_float32, "multiplied": _multiplied}


class QuickAttention(nn.Module):
    """While entered, attention that is trained goes through the quickest kernel.

    torch's fused kernel stays on GPUs, in float32, and over many tokens. In bf16 on CPUs its backward pass can take
    four times as long as attention multiplied out: there the kernels are timed at the first call of each shape, on that
    call's own q, k and v. The times are kept for this machine in the user's cache folder, so that equal runs take equal
    kernels, and what was chosen is in the state_dict, so that a resumed run goes on with it.

    Attributes:
        chosen: names of `KERNELS` by shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.chosen: dict[str, str] = {}
        self._always = False
        self._mode = _Mode(self)

    def as_when_trained(self) -> "QuickAttention":
        """The same, to be entered around passes that need no gradient."""
        other = QuickAttention()
        other.chosen, other._always = self.chosen, True
        return other

    def __enter__(self) -> "QuickAttention":
        self._before, entered.attend = entered.attend, self.attend_with_row
        self._mode.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._mode.__exit__(*raised)
        entered.attend = self._before

    def names(self) -> str:
        """What was chosen, for results.json: the kernels' names."""
        return ", ".join(sorted(set(self.chosen.values()))) or "fused"

    def get_extra_state(self) -> dict[str, str]:
        return dict(self.chosen)

    def set_extra_state(self, state: dict[str, str]) -> None:
        self.chosen.update(state)

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> str:
        """The kernel for such q, k and v, (B, H, N, d)."""
        trained = self._always or (torch.is_grad_enabled() and q.requires_grad)
        fits = q.ndim == 4 and q.shape == k.shape == v.shape and q.shape[2] <= TOKENS
        low = q.device.type == "cpu" and q.dtype == k.dtype == v.dtype == torch.bfloat16
        if not (trained and fits and low):
            return "fused"
        shape = f"bf16 {q.shape[1]}x{q.shape[2]}x{q.shape[3]}"
        if shape not in self.chosen:
            with torch._C.DisableTorchFunction():  # type: ignore[attr-defined]
                self.chosen[shape] = _quickest(shape, q, k, v, scale)
        return self.chosen[shape]

    def attend_with_row(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, first_key: int
    ) -> tuple[Tensor, Tensor] | None:
        """Attention and its [cls] row in one, see `MultipliedAttention`; None where another kernel is the quicker."""
        if self.kernel(q, k, v, scale) != "multiplied":
            return None
        return MultipliedAttention.apply(q, k, v, scale, first_key)  # type: ignore[no-untyped-call,no-any-return]


class _Mode(TorchFunctionMode):
    def __init__(self, owner: QuickAttention) -> None:
        super().__init__()
        self._owner = [owner]  # no submodule

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention and (plain := _plain_call(*args, **(kwargs or {}))) is not None:
            return KERNELS[self._owner[0].kernel(*plain)](*plain)
        return func(*args, **(kwargs or {}))


def _plain_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor, Tensor, float] | None:
    """q, k, v and scale of a call of attention; None where there is more to it."""
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        return None
    return query, key, value, query.shape[-1] ** -0.5 if scale is None else scale


def _quickest(shape: str, q: Tensor, k: Tensor, v: Tensor, scale: float) -> str:
    """The kernel that takes least time, where it takes clearly less than the fused one and is exact enough."""
    seconds = remembered(
        "attention.json", shape, lambda: _timed(q, k, v, scale), lambda known: known.keys() == KERNELS.keys()
    )
    exact = _value_and_gradients(_fused, q.float(), k.float(), v.float(), scale)
    for name in sorted(seconds, key=seconds.__getitem__):
        if name != "fused" and seconds[name] < MARGIN * seconds["fused"]:
            found = _value_and_gradients(KERNELS[name], q, k, v, scale)
            errors = [float((f.float() - e).norm() / (e.norm() + 1e-30)) for f, e in zip(found, exact, strict=True)]
            if max(errors) <= ERROR:
                return name
    return "fused"


def _timed(q: Tensor, k: Tensor, v: Tensor, scale: float) -> dict[str, float]:
    """Least seconds, forward and backward, of each kernel, taken in turn after a round that warms up.

    The least, of many rounds: what is found is remembered, and other programs only ever add to it. (Medians of five
    rounds beside other programs found all three equal, 0.3 s; alone they take 0.023, 0.011 and 0.006.)
    """
    seconds: dict[str, list[float]] = {name: [] for name in KERNELS}
    first = time.perf_counter()
    while len(seconds["fused"]) <= ROUNDS or (
        time.perf_counter() - first < ENOUGH and len(seconds["fused"]) <= MOST_ROUNDS
    ):
        for name, kernel in KERNELS.items():
            began = time.perf_counter()
            _value_and_gradients(kernel, q, k, v, scale)
            seconds[name].append(time.perf_counter() - began)
    return {name: min(times[1:]) for name, times in seconds.items()}


def _value_and_gradients(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> list[Tensor]:
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        out = kernel(q, k, v, scale)
        return [out.detach(), *torch.autograd.grad(out, (q, k, v), out.detach())]
