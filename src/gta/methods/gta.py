"""GTA: guided transfer of spatial attention (arXiv 2401.02656); the method itself is `gta.guidance`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from gta.guidance import Guided, guide

if TYPE_CHECKING:
    from gta.methods import MethodOptions


def prepare(target: nn.Module, source: nn.Module, options: MethodOptions) -> Guided:
    return guide(target, source, weight=options.weight, layers=options.layers, distance=options.distance)
