"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382): branches are left out at random in training.

p_l = rate · l / (L − 1)   for both branches of block l = 0 … L − 1
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from timm.layers import DropPath
from torch import nn

from gta.errors import GtaError
from gta.methods.base import Grid, Method, check_number
from gta.vit.structure import vit_info


@dataclass
class StochasticDepth(Method):
    """Leave out branches of blocks at random in training, deeper ones more often.

    Args:
        rate: Of the last block, 0 or above and below 1.
    """

    rate: float = 0.1

    paper: ClassVar[str] = "Huang 2016, arXiv 1603.09382"
    grid: ClassVar[Grid] = {"drop_path.rate": (0.05, 0.1, 0.2)}

    def __post_init__(self) -> None:
        check_number(self, "rate", 0, 0.99)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        blocks: Any = vit_info(target).blocks
        for layer, block in enumerate(blocks):
            if not (hasattr(block, "drop_path1") and hasattr(block, "drop_path2")):
                raise GtaError(f"drop_path: the blocks of {type(target).__name__} have no drop paths. Leave it out.")
            rate = self.rate * layer / max(1, len(blocks) - 1)
            block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
