"""Attention distillation (Li et al. 2024, "On the Surprising Effectiveness of Attention Transfer", arXiv 2411.09702).

    L = weight · mean over layers, images, heads and queries of −Σ over keys of A_S · log A_T

A: the full attention maps after softmax, all tokens' queries over all tokens. Unlike the other guides it builds N×N
maps. The paper distils into a target that starts from scratch; here it starts from the source.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gta.methods.base import Grid, Method, Step, check_number
from gta.vit.attention_logits import AttentionLogits, QueryKeyPair
from gta.vit.structure import ViTInfo


@dataclass
class AttentionDistill(Method):
    """Cross-entropy between the source's and the target's full attention maps.

    Args:
        weight: Weight of the cross-entropy, 0 or above.
    """

    weight: float = 1.0

    paper: ClassVar[str] = "Li 2024, arXiv 2411.09702"
    grid: ClassVar[Grid] = {"attention_distill.weight": (0.1, 1, 10)}

    def __post_init__(self) -> None:
        check_number(self, "weight", 0)

    def capture(self, vit: ViTInfo) -> AttentionLogits:
        return AttentionLogits(vit, range(vit.depth), "patches", prefix=True)

    def penalty(self, target: list[QueryKeyPair], source: list[QueryKeyPair], step: Step) -> Tensor:
        pairs = zip(target, source, strict=True)
        per_layer = [-(s.float().softmax(-1) * t.float().log_softmax(-1)).sum(-1).mean() for t, s in pairs]
        return self.weight * torch.stack(per_layer).mean()
