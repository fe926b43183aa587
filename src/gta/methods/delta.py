"""DELTA (Li et al. 2019, arXiv 1901.09229), on the outputs of ViT blocks.

    Ω = alpha / 2 · Σ over layers, images, channels of C · W_c / T · ‖F_c(target) − F_c(source)‖² + beta / 2 · ‖w_S̄‖²

F_c: channel c of a block's output over its T tokens, prefix tokens included; C channels; w_S̄: the new classifier.
Summed as Transfer-Learning-Library's AttentionBehavioralRegularization does, the batch included. Ours differs in the
channels' weights: W_c = 1 / C. The original measures how much the loss grows without each channel; for the
4 × 384 channels of a small ViT that is 1,536 passes over the training set.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gta.methods.base import Grid, Method, Step, check_number, classifier_of
from gta.methods.l2_sp import half_square
from gta.vit.outputs import LayerOutputs
from gta.vit.structure import ViTInfo


@dataclass
class Delta(Method):
    """Pull block outputs towards the source's on the same images.

    Args:
        alpha: Pull towards the source's outputs, 0 or above.
        beta: Pull of the classifier towards zero, 0 or above.
        blocks: Number of blocks held, evenly spaced and ending with the last.
    """

    alpha: float = 0.01
    beta: float = 0.01
    blocks: int = 4

    paper: ClassVar[str] = "Li 2019, arXiv 1901.09229"
    grid: ClassVar[Grid] = {"delta.alpha": (0.0001, 0.001, 0.01)}

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0)
        check_number(self, "beta", 0)
        check_number(self, "blocks", 1)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._classifier = classifier_of(target)

    def capture(self, vit: ViTInfo) -> LayerOutputs:
        held = min(self.blocks, vit.depth)
        return LayerOutputs(vit.blocks, [round(vit.depth * (i + 1) / held) - 1 for i in range(held)])

    def penalty(self, target: list[Tensor], source: list[Tensor], step: Step) -> Tensor:
        pairs = zip(target, source, strict=True)
        per_layer = [(t.float() - s.float()).square().sum() / t.shape[1] for t, s in pairs]
        return self.alpha / 2 * torch.stack(per_layer).sum() + half_square(self._classifier, self.beta)
