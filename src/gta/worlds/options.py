"""The options of a procedural data set; the command line is made of them."""

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from gta.errors import GtaError

SEEDS = 1_000_000  # seeds of one family of species


@dataclass(frozen=True)
class WorldOptions:
    """Write a small procedural data set of butterflies, with masks, that gta train takes.

    In train the ground follows the class with probability `spurious`; in val the training grounds are drawn at random;
    in test every ground is new. A model that looks at the ground loses. With `label` ground it is the other way round:
    the class is the ground, in every split, and any species sits on it. With `both` a class is a species on a ground,
    and neither alone tells it (12 classes: 3 species on 4 grounds).

    Args:
        out: Folder to make.
        classes: Classes, at least 2: species or grounds.
        train: Training images per class.
        val: Validation images per class; 0 leaves the split out.
        test: Test images per class; 0 leaves the split out.
        size: Side of the images in px.
        spurious: Probability, 0 to 1, that a training image has the ground of its class; otherwise any of the
            training grounds (label species).
        label: What the class is: species, ground, or both.
        sensor: As what the same scenes are seen: colour; inverted; grey; or thermal, false colours of how bright it is.
        seed: Of species, grounds and images; the same options give the same files.
        pretraining: Draw the species that the embedded source was pre-trained on, instead of those kept for
            downstream use.
    """

    out: str
    classes: int = 12
    train: int = 8
    val: int = 4
    test: int = 20
    size: int = 96
    spurious: float = 0.9
    label: Literal["species", "ground", "both"] = "species"
    sensor: Literal["colour", "inverted", "grey", "thermal"] = "colour"
    seed: int = 0
    pretraining: bool = False

    def __post_init__(self) -> None:
        for name in ("label", "sensor"):
            known = get_args(get_type_hints(type(self))[name])
            if getattr(self, name) not in known:
                raise GtaError(f"--{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        least = 4 if self.label == "both" else 2
        limits = {"classes": (least, math.inf), "train": (1, math.inf), "val": (0, math.inf), "test": (0, math.inf)}
        limits |= {"size": (8, math.inf), "spurious": (0, 1), "seed": (0, SEEDS - 1)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                wanted = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise GtaError(f"--{name} must be {wanted}, got {value}.")
