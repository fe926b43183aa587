"""Tuning the attention layers only (Touvron et al. 2022, arXiv 2203.09795).

The weights and biases of every multi-head self-attention (qkv, their norms, projection) and the classifier train;
everything else stays the source's, bit for bit.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gta.methods.base import Method, train_only


@dataclass
class AttentionOnly(Method):
    """Train the attention layers and the classifier only."""

    paper: ClassVar[str] = "Touvron 2022, arXiv 2203.09795"
    freezes_parameters: ClassVar[bool] = True

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        train_only(target, lambda name: re.match(r"blocks\.\d+\.attn\.", name) is not None)
