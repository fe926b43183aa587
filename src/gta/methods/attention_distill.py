"""Attention distillation (Li et al. 2024, "On the Surprising Effectiveness of Attention Transfer", arXiv 2411.09702).

    L = weight · mean over layers, images, heads and queries of −Σ over keys of A_S · log A_T

A: the full attention maps after softmax, all tokens' queries over all tokens. Unlike the other guides it builds N×N
maps. The paper distils into a target that starts from scratch; here it starts from the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gta.methods.base import Grid, Part, Step, check_number
from gta.vit.attention_logits import RowTap, captured, read_rows
from gta.vit.structure import anatomy


@dataclass
class AttentionDistill(Part):
    """Cross-entropy between the source's and the target's full attention maps.

    Args:
        weight: Weight of the cross-entropy, 0 or above.
    """

    weight: float = 1.0

    paper: ClassVar[str] = "Li 2024, arXiv 2411.09702"
    grid: ClassVar[Grid] = {"attention_distill.weight": (0.1, 1, 10)}

    def __post_init__(self) -> None:
        check_number(self, "weight", 0)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        self._source, self._bodies = source, (anatomy(target), anatomy(source))
        self._layers = range(self._bodies[0].depth)

    def before(self, images: Tensor, rows: Tensor | None = None) -> None:
        readings = read_rows(self._source, images, self._bodies[1], self._layers, "patches", first_key=0)
        self._held = [reading.rows().softmax(-1) for reading in readings]

    def watch(self) -> RowTap:
        self._tap = RowTap(self._layers, 0, queries="patches")  # from key 0: all tokens, [cls] too
        return self._tap

    def penalty(self, step: Step) -> Tensor:
        readings = captured(self._tap, self._bodies[0], self._layers, step.images)
        pairs = zip((reading.rows() for reading in readings), self._held, strict=True)
        per_layer = [-(s * t.log_softmax(-1)).sum(-1).mean() for t, s in pairs]
        return self.weight * torch.stack(per_layer).mean()
