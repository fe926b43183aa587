"""Choose by the data: the default. `gta.training.auto` decides which of the other methods it stands for."""

from dataclasses import dataclass
from typing import ClassVar

from gta.methods.base import Grid, Method


@dataclass
class Auto(Method):
    """Crop to where the source looks and swap backgrounds, where that holds the class; needs no settings."""

    grid: ClassVar[Grid] = {"lr": (None,)}
