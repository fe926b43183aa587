"""TransMix (Chen et al. 2022, arXiv 2111.09833).

CutMix whose labels are mixed by how much of the target's own attention falls into the box:

    y = (1 − λ)·y_i + λ·y_j,   λ = (Σ over patches of A·M / Σ A + area(M)) / 2

A: the last layer's [cls] attention over the patches, after softmax, mean over heads, of the mixed image; M: the box on
the patch grid (nearest neighbour). The mean with the box's area is in the authors' code, not in the paper's equation.
No gradient runs through the labels. The box is drawn here: torchvision's CutMix does not say where it was.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gta.methods.base import Grid, Method, check_number
from gta.vit.attention_logits import AttentionMaps
from gta.vit.structure import ViTInfo, vit_info


@dataclass
class TransMix(Method):
    """CutMix whose labels follow the target's own [cls] attention.

    Args:
        alpha: Of the Beta distribution of the box's area, above 0: 1 for areas drawn uniformly.
    """

    alpha: float = 1.0

    paper: ClassVar[str] = "Chen 2022, arXiv 2111.09833"
    captures_source: ClassVar[bool] = False
    grid: ClassVar[Grid] = {"transmix.alpha": (0.3, 1, 3)}

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, above=True)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._vit, self._classes = vit_info(target), int(target.num_classes)  # type: ignore[arg-type]

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self._mask = random_box(images, self.alpha)
        self._partner = torch.randperm(len(images)).to(images.device)
        mixed = torch.where(self._mask > 0, images[self._partner], images)
        self._grid = self._vit.patches(mixed)
        return mixed, F.one_hot(labels, self._classes).float()

    def capture(self, vit: ViTInfo) -> AttentionMaps:
        return AttentionMaps(vit, [vit.depth - 1])

    @torch.no_grad()
    def relabel(self, targets: Tensor, target: list[Tensor]) -> Tensor:
        attention = target[0].mean(1)  # (B, N)
        inside = F.interpolate(self._mask[None, None], size=self._grid, mode="nearest").flatten()  # (N,)
        share = ((attention * inside).sum(-1) / attention.sum(-1) + self._mask.mean()) / 2  # (B,)
        return targets.lerp(targets[self._partner], share[:, None].to(targets))


def random_box(images: Tensor, alpha: float) -> Tensor:
    """A box as a mask (height, width) float32, 1 inside, for images (B, C, height, width).

    It has the image's proportions and a centre drawn uniformly; from torch's global generator on the CPU.
    """
    side = (1 - float(torch.distributions.Beta(alpha, alpha).sample())) ** 0.5
    mask = torch.zeros(images.shape[-2:])
    inside = []
    for length in images.shape[-2:]:
        centre, half = int(torch.randint(length, ())), int(length * side) / 2
        inside.append(slice(max(0, int(centre - half)), min(length, int(centre + half))))
    mask[inside[0], inside[1]] = 1
    return mask.to(images.device)
