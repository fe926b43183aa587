"""LiNeS: undo more of the tuning the shallower the layer (Wang et al. 2024, arXiv 2410.17146, equation 3).

    w_l = w⁰_l + (first + (1 − first) · l / (L − 1)) · (w_l − w⁰_l),   l = 0 … L − 1

The patch embedding and the tokens count as the first layer, what stands behind the blocks as the last.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gta.methods.base import Grid, Method, check_number
from gta.methods.wise_ft import keep_of_change
from gta.vit.structure import vit_info


@dataclass
class LiNeS(Method):
    """Bring shallow layers back towards the source's after training.

    Args:
        first: Share of the first layer's change that is kept, 0 to 1; it grows linearly to 1 at the last layer.
    """

    first: float = 0.5

    paper: ClassVar[str] = "Wang 2024, arXiv 2410.17146"
    grid: ClassVar[Grid] = {"lines.first": (0.0, 0.5, 0.8)}

    def __post_init__(self) -> None:
        check_number(self, "first", 0, 1)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._source = source
        self._depth = vit_info(source).depth

    def finish(self, target: nn.Module) -> None:
        keep_of_change(target, self._source, self._kept)

    def _kept(self, name: str) -> float:
        block = re.match(r"blocks\.(\d+)\.", name)
        behind = name.startswith(("norm.", "fc_norm."))
        layer = int(block[1]) if block else self._depth - 1 if behind else 0
        return self.first + (1 - self.first) * layer / max(1, self._depth - 1)
