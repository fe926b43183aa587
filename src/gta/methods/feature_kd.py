"""Feature distillation (Romero et al. 2015, "FitNets", arXiv 1412.6550), of the classifier's input.

    L = weight · mean over images and channels of (f_T − f_S)²

f: pooled, normalised features. Source and target have one width, so there is no regressor between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from gta.methods.base import Grid, Part, Step, check_number
from gta.vit.outputs import Features, read_features


@dataclass
class FeatureKD(Part):
    """Hold the classifier's input near the source's on the same images.

    Args:
        weight: Weight of the distance, 0 or above.
    """

    weight: float = 1.0

    paper: ClassVar[str] = "Romero 2015, arXiv 1412.6550"
    grid: ClassVar[Grid] = {"feature_kd.weight": (0.1, 1, 10)}

    def __post_init__(self) -> None:
        check_number(self, "weight", 0)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._source, self._watch = source, Features(target)

    def before(self, images: Tensor, rows: Tensor | None = None) -> None:
        self._held = read_features(self._source, images)

    def watch(self) -> Features:
        return self._watch

    def penalty(self, step: Step) -> Tensor:
        return self.weight * (self._watch.features().float() - self._held.float()).square().mean()
