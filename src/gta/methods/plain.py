"""Plain fine-tuning: all weights train, cross-entropy alone. The baseline of every comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from gta.methods import MethodOptions


class Plain(nn.Module):
    """Maps images to (logits, zero)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(images), torch.zeros((), device=images.device)


def prepare(target: nn.Module, source: nn.Module, options: MethodOptions) -> Plain:
    return Plain(target)
