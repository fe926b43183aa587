"""WiSE-FT: weight-space ensembling after training (Wortsman et al. 2022, arXiv 2109.01903).

    w = (1 − alpha) · w_source + alpha · w_tuned

Training is not touched. Ours differs in the classifier: the paper's source has a zero-shot one to average with; a
source without classes has none, so the tuned classifier stays as it is (`lp_ft+wise_ft` starts it from a probe).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from gta.methods.base import Grid, Method, check_number, classifier_of


@dataclass
class WiseFT(Method):
    """After training, average the weights with the source's.

    Args:
        alpha: Share of the tuned weights, 0 to 1.
    """

    alpha: float = 0.5

    paper: ClassVar[str] = "Wortsman 2022, arXiv 2109.01903"
    grid: ClassVar[Grid] = {"wise_ft.alpha": (0.25, 0.5, 0.75)}

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, 1)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._source = source

    def finish(self, target: nn.Module) -> None:
        keep_of_change(target, self._source, lambda name: self.alpha)


@torch.no_grad()
def keep_of_change(target: nn.Module, source: nn.Module, share: Callable[[str], float]) -> None:
    """Keep a share, by its name, of what each parameter has moved from the source's; all of the classifier's."""
    start, classifier = dict(source.named_parameters()), {id(p) for p in classifier_of(target)}
    for name, parameter in target.named_parameters():
        if name in start and id(parameter) not in classifier:
            parameter.lerp_(start[name].to(parameter), 1 - share(name))
