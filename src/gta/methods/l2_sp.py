"""L2-SP (Li, Grandvalet and Davoine 2018, arXiv 1802.01483).

    Ω(w) = alpha / 2 · ‖w_S − w⁰_S‖² + beta / 2 · ‖w_S̄‖²

w_S: the weights shared with the source, w⁰_S theirs in the source; w_S̄: the new classifier's. Summed over all
weights, as in Transfer-Learning-Library. AdamW's own decay towards zero stays; --weight-decay 0 turns it off.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gta.errors import GtaError
from gta.methods.base import Grid, Method, Step, check_number, classifier_of


@dataclass
class L2SP(Method):
    """Pull the weights towards the source's, and the new classifier's towards zero.

    Args:
        alpha: Pull towards the source's weights, 0 or above.
        beta: Pull of the classifier towards zero, 0 or above.
    """

    alpha: float = 0.01
    beta: float = 0.01

    paper: ClassVar[str] = "Li 2018, arXiv 1802.01483"
    grid: ClassVar[Grid] = {"l2_sp.alpha": (0.001, 0.01, 0.1)}

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0)
        check_number(self, "beta", 0)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        start = dict(source.named_parameters())
        self._classifier = classifier_of(target)
        new = {id(p) for p in self._classifier}
        self._pairs = [
            (parameter, start[name])
            for name, parameter in target.named_parameters()
            if name in start and id(parameter) not in new
        ]
        if not any(parameter.requires_grad for parameter, _ in self._pairs):
            raise GtaError("l2_sp has nothing to pull: no weight that the source has too is trained. Leave it out.")

    def penalty(self, target: None, source: None, step: Step) -> Tensor:
        pulled = [(w - w0).square().sum() for w, w0 in self._pairs if w.requires_grad]
        zero = step.loss.new_zeros(())  # in the probing phase of lp_ft nothing but the classifier trains
        return self.alpha / 2 * sum(pulled, zero) + half_square(self._classifier, self.beta)


def half_square(parameters: list[nn.Parameter], beta: float) -> Tensor:
    """beta / 2 · ‖w‖², summed over all of them."""
    return beta / 2 * torch.stack([w.square().sum() for w in parameters]).sum()
