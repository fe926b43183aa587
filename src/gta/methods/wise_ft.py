"""WiSE-FT: average the tuned weights with the source's (Wortsman et al. 2022, arXiv 2109.01903, equation 1).

    w = (1 − share) · w⁰ + share · w_tuned

w⁰: the source's weights. The classifier, which the source lacks, keeps its tuned weights: the paper's is zero-shot and
averaged as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gta.methods.base import Grid, Method, check_number


@dataclass
class WiSEFT(Method):
    """Average the weights with the source's after training.

    Args:
        share: Of the tuned weights, 0 to 1; 1 is without averaging.
    """

    share: float = 0.7

    paper: ClassVar[str] = "Wortsman 2022, arXiv 2109.01903"
    grid: ClassVar[Grid] = {"wise_ft.share": (0.5, 0.7, 0.9)}

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._start = dict(source.named_parameters())

    def finish(self, target: nn.Module) -> None:
        toward_source(target, self._start, lambda name: self.share)


def toward_source(target: nn.Module, start: dict[str, nn.Parameter], kept: Callable[[str], float]) -> None:
    """Keep a share of what each of the target's parameters has moved from the source's of the same name."""
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            if name in start and start[name].shape == parameter.shape:
                before: Tensor = start[name].to(parameter.device)
                parameter.copy_(before + kept(name) * (parameter - before))
