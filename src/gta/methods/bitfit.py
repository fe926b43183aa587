"""BitFit (Ben Zaken, Ravfogel and Goldberg 2022, arXiv 2106.10199).

Every bias (those of the norms included) and the classifier train; everything else stays the source's, bit for bit.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gta.methods.base import Grid, Method, train_only


@dataclass
class BitFit(Method):
    """Train the biases and the classifier only."""

    paper: ClassVar[str] = "Ben Zaken 2022, arXiv 2106.10199"
    freezes_parameters: ClassVar[bool] = True
    grid: ClassVar[Grid] = {"lr": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3), "layer_decay": (0.85, 1.0)}

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        train_only(target, lambda name: name.rpartition(".")[2] == "bias" or name.endswith(("q_bias", "v_bias")))
