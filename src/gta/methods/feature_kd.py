"""Feature distillation (Romero et al. 2015, "FitNets", arXiv 1412.6550), of the classifier's input.

    L = weight · mean over images and channels of (f_T − f_S)²

f: pooled, normalised features. Source and target have one width, so there is no regressor between them.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gta.methods.base import Grid, Method, Step, check_number
from gta.vit.outputs import Features
from gta.vit.structure import ViTInfo


@dataclass
class FeatureKD(Method):
    """Hold the classifier's input near the source's on the same images.

    Args:
        weight: Weight of the distance, 0 or above.
    """

    weight: float = 1.0

    paper: ClassVar[str] = "Romero 2015, arXiv 1412.6550"
    grid: ClassVar[Grid] = {"feature_kd.weight": (0.1, 1, 10)}

    def __post_init__(self) -> None:
        check_number(self, "weight", 0)

    def capture(self, vit: ViTInfo) -> Features:
        return Features(vit)

    def penalty(self, target: Tensor, source: Tensor, step: Step) -> Tensor:
        return self.weight * (target.float() - source.float()).square().mean()
