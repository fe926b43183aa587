"""Linear probe: the backbone stays the source's, bit for bit; only the classifier learns."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gta.methods.base import Grid, Method, train_only


@dataclass
class LinearProbe(Method):
    """Train the classifier only, on the source's frozen features."""

    freezes_parameters: ClassVar[bool] = True
    grid: ClassVar[Grid] = {"head_lr_scale": (1, 10, 100)}

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        train_only(target, lambda name: False)
