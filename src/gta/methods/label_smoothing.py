"""Label smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7).

    L = cross-entropy against (1 − share) · target + share / classes

Added to the loss is what that differs by from the plain cross-entropy.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from gta.methods.base import Grid, Method, Step, check_number


@dataclass
class LabelSmoothing(Method):
    """Train on labels that leave the other classes a share.

    Args:
        share: Probability spread over all classes, 0 or above and below 1.
    """

    share: float = 0.1

    paper: ClassVar[str] = "Szegedy 2016, arXiv 1512.00567"
    grid: ClassVar[Grid] = {"label_smoothing.share": (0.05, 0.1, 0.2)}

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 0.99)

    def penalty(self, target: None, source: None, step: Step) -> Tensor:
        return F.cross_entropy(step.logits.float(), step.targets, label_smoothing=self.share) - step.loss
