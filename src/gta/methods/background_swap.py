"""Swap backgrounds: what the source does not look at comes from another picture; the label stays.

The patches that hold most of the source's [cls] attention are kept; the others show another training picture's
background. So the background says nothing of the class, and the object must. Relatives: ForAug
(arXiv 2503.09399) and AutoBackSwap (arXiv 2606.32018), which segment objects with models made for it; masked
counterfactuals (arXiv 2303.03052). Here the pre-trained model that is tuned says itself what the object is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from gta.errors import GtaError
from gta.methods.base import Grid, Method, check_number
from gta.vit.structure import vit_info

FILLS = ("patches", "blur", "whole")
FOREGROUNDS = ("attention", "masks")


@dataclass
class BackgroundSwap(Method):
    """Train on pictures whose background, where the source does not look, comes from other pictures.

    Args:
        foreground: What is kept: where the source's attention is, or, with masks, the object of the user's own mask of
            a training image where there is one (attention, masks).
        share: Of the training views that have another background, above 0 and up to 1.
        mass: Share of the attention that is on what is kept, above 0 and up to 1.
        dilate: Patches around it that are kept as well, 0 or more.
        fill: What the background is filled with: patches of another picture's background, that picture whole, or its
            blurred colours (patches, whole, blur).
    """

    foreground: str = "attention"
    share: float = 0.5
    mass: float = 0.6
    dilate: int = 0
    fill: str = "patches"

    paper: ClassVar[str] = "after ForAug, arXiv 2503.09399"
    looks: ClassVar[bool] = True
    grid: ClassVar[Grid] = {"layer_decay": (0.7, 0.85, 1.0)}

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1, above=True)
        check_number(self, "mass", 0, 1, above=True)
        check_number(self, "dilate", 0)
        for option, choices in (("fill", FILLS), ("foreground", FOREGROUNDS)):
            if getattr(self, option) not in choices:
                given = getattr(self, option)
                raise GtaError(f"--{self.name}.{option} {given} is not known: use one of {', '.join(choices)}.")

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        grid = vit_info(target).grid
        self._across = 8 if grid is None else grid[1]

    def uses_masks(self) -> bool:
        return self.foreground == "masks"

    def edit(self, image: Tensor, rank: Tensor, another: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        if torch.rand(()) >= self.share:
            return image
        patch = image.shape[-1] // self._across
        kept, reach = (rank <= self.mass).float()[None], self.dilate * patch
        kept = F.max_pool2d(kept, (2 * reach + 1, 1), 1, (reach, 0))
        kept = F.max_pool2d(kept, (1, 2 * reach + 1), 1, (0, reach))[0] > 0
        other, other_rank = another()
        return torch.where(kept, image, self._fill(other, other_rank, patch))

    def _fill(self, image: Tensor, rank: Tensor, patch: int) -> Tensor:
        if self.fill == "whole":
            return image
        if self.fill == "blur":
            return gaussian_blur(image, [4 * patch + 1] * 2, [2.0 * patch] * 2)
        return background(image, rank, patch)


def background(image: Tensor, rank: Tensor, patch: int) -> Tensor:
    """An image whose more attended half shows patches of the other half, drawn at random.

    Args:
        image: (3, size, size).
        rank: (size, size), see `gta.vit.foreground.ranked`.
        patch: side of a patch in px.
    """
    size = image.shape[-1]
    cells = size // patch
    tiles = image.unfold(1, patch, patch).unfold(2, patch, patch)  # (3, cells, cells, patch, patch)
    attended = F.avg_pool2d(rank[None], patch)[0, :cells, :cells].flatten()
    order = attended.argsort()
    half = len(order) // 2
    take = torch.arange(len(order))
    take[order[:half]] = order[half:][torch.randint(len(order) - half, (half,))]
    tiles = tiles.flatten(1, 2)[:, take].unflatten(1, (cells, cells))
    filled = image.clone()
    filled[:, : cells * patch, : cells * patch] = tiles.permute(0, 1, 3, 2, 4).reshape(3, cells * patch, -1)
    return filled
