"""The options of a procedural data set; the command line is made of them."""

from __future__ import annotations

from dataclasses import dataclass

from gta.errors import GtaError

SEEDS = 1_000_000  # seeds of one family of species


@dataclass(frozen=True)
class WorldOptions:
    """Write a small procedural data set of butterflies, with masks, that gta train takes.

    In train the ground follows the class with probability `spurious`; in val the training grounds are drawn at random;
    in test every ground is new. A model that looks at the ground loses.

    Args:
        out: Folder to make.
        classes: Species, at least 2.
        train: Training images per class.
        val: Validation images per class; 0 leaves the split out.
        test: Test images per class; 0 leaves the split out.
        size: Side of the images in px.
        spurious: Probability, 0 to 1, that a training image has the ground of its class; otherwise any of the
            training grounds.
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
    seed: int = 0
    pretraining: bool = False

    def __post_init__(self) -> None:
        rules: list[tuple[str, bool, str]] = [
            ("classes", self.classes >= 2, "at least 2"),
            ("train", self.train >= 1, "at least 1"),
            ("val", self.val >= 0, "0 or above"),
            ("test", self.test >= 0, "0 or above"),
            ("size", self.size >= 8, "of px, at least 8"),
            ("spurious", 0 <= self.spurious <= 1, "from 0 to 1"),
            ("seed", 0 <= self.seed < SEEDS, f"from 0 to {SEEDS - 1}"),
        ]
        for name, fine, wanted in rules:
            if not fine:
                raise GtaError(f"--{name} {getattr(self, name)} cannot be used: write a number {wanted}.")
