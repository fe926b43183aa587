"""Look closer: show the model what the source looks at, in training and in prediction.

The box around the largest connected part of the patches that hold half of the source's [cls] attention, made square and
a little larger, is cut out of the full picture (`gta.vit.foreground.attended_box`); the model sees it at its own size.
Where the attention is diffuse the box is the whole picture. Crops at the attention of a small self-supervised ViT:
A² (arXiv 2606.03148); the rule above and its numbers are this package's.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gta.methods.base import Box, Grid, Method, check_number
from gta.vit.foreground import attended_box


@dataclass
class AttentionCrop(Method):
    """Crop every picture to where the attention is, in training and in prediction.

    Args:
        mass: Share of the attention that the box is drawn around, above 0 and up to 1.
        margin: Factor of the box's side, 1 or more.
        least: Smallest side of the box, in shares of the picture's shorter side.
    """

    mass: float = 0.5
    margin: float = 1.2
    least: float = 0.3

    paper: ClassVar[str] = "after A², arXiv 2606.03148"
    looks: ClassVar[bool] = True
    grid: ClassVar[Grid] = {"layer_decay": (0.7, 0.85, 1.0)}

    def __post_init__(self) -> None:
        check_number(self, "mass", 0, 1, above=True)
        check_number(self, "margin", 1)
        check_number(self, "least", 0, 1, above=True)

    def box(self, rank: Tensor, aspect: float) -> Box:
        return attended_box(rank, self.mass, self.margin, self.least, aspect)
