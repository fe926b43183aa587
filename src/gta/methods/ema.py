"""EMA of the weights (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv 1703.01780).

    a ← a + (w − a) / (share · steps)   after every step

The result is a, which has seen about the last `share` of the training.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from gta.methods.base import Grid, Method, check_number


class _Average(nn.Module):
    """The averaged parameters; checkpointed with the target, never trained."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        for i, parameter in enumerate(parameters):
            self.register_buffer(str(i), parameter.detach().clone())

    @torch.no_grad()
    def follow(self, parameters: list[nn.Parameter], share: float) -> None:
        torch._foreach_lerp_(list(self.buffers()), [p.detach() for p in parameters], share)


@dataclass
class EMA(Method):
    """Take the average of the weights over the last steps instead of the last weights.

    Args:
        share: Of the training that the average looks back on, above 0 and up to 1.
    """

    share: float = 0.1

    paper: ClassVar[str] = "Tarvainen 2017, arXiv 1703.01780"
    grid: ClassVar[Grid] = {"ema.share": (0.05, 0.1, 0.2)}

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1, above=True)

    def attach(self, target: nn.Module, source: nn.Module) -> nn.Module:
        self._parameters = list(target.parameters())
        self._average = _Average(self._parameters)
        self._steps = 1
        return self._average

    def begin_step(self, done: int, steps: int) -> None:
        self._steps = steps
        if done:
            self._average.follow(self._parameters, self._rate())

    def finish(self, target: nn.Module) -> None:
        self._average.to(self._parameters[0].device).follow(self._parameters, self._rate())
        with torch.no_grad():
            torch._foreach_copy_([p.detach() for p in self._parameters], list(self._average.buffers()))

    def _rate(self) -> float:
        return min(1.0, 1 / (self.share * self._steps))
