"""Attention by the kernel that is quickest for its shape."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


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
