"""LP-FT: probe, then tune (Kumar et al. 2022, arXiv 2202.10054).

The classifier alone trains first, so that the features are not distorted by a random one's gradients; then all weights
train from there. Both phases have the learning rate's whole course, warm-up and decay. The paper tunes each
phase's length and rate on its own; here the probe takes a share of the steps, at the classifier's learning rate.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gta.methods.base import Grid, Method, check_number, classifier_of


@dataclass
class ProbeThenTune(Method):
    """Train the classifier alone, then everything.

    Args:
        probe: Share of the training steps given to the classifier alone, above 0 and below 1.
    """

    probe: float = 0.25

    paper: ClassVar[str] = "Kumar 2022, arXiv 2202.10054"
    grid: ClassVar[Grid] = {"lp_ft.probe": (0.1, 0.25, 0.5)}

    def __post_init__(self) -> None:
        check_number(self, "probe", 0, 0.99, above=True)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._target = target
        self._backbone: list[nn.Parameter] | None = None

    def restart(self) -> float:
        return self.probe

    def begin_step(self, done: int, steps: int) -> None:
        if self._backbone is None:  # by now all parts are attached; what they have frozen stays so
            classifier = {id(p) for p in classifier_of(self._target)}
            self._backbone = [p for p in self._target.parameters() if p.requires_grad and id(p) not in classifier]
        for parameter in self._backbone:
            parameter.requires_grad_(done >= self.probe * steps)
