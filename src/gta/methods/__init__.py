"""Methods of transfer, by name. One short file each; adding one is one file and one line here.

A method turns a target, a source and the options into a module that maps images to (logits, penalty), holds
the target as `.model`, and adds nothing to its state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import nn

from gta.methods import gta, plain


class MethodOptions(Protocol):
    """What methods read of the training options."""

    @property
    def weight(self) -> float: ...
    @property
    def layers(self) -> str | Sequence[int]: ...
    @property
    def distance(self) -> str: ...


Method = Callable[[nn.Module, nn.Module, MethodOptions], nn.Module]

METHODS: dict[str, Method] = {"gta": gta.prepare, "plain": plain.prepare}
GUIDED = frozenset({"gta"})  # methods that read weight, layers and distance
