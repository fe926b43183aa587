"""The options of `gta bench`; the command line is made of them."""

from dataclasses import dataclass
from typing import Literal

from gta.errors import GtaError
from gta.training.options import TrainOptions


@dataclass(frozen=True)
class Bench:
    """Measure what guidance costs on this machine: time, memory, FLOPs and growth.

    Give the machine nothing else to do meanwhile.

    Args:
        source: Pre-trained ViT, as of gta train; or random:NAME, an architecture of timm's without its weights.
        out: Folder for bench.json, bench.md, bench.png and bench.html.
        heads: Attention heads of the source, where they are not width / 64 and its file does not say.
        image_size: Side of the images in px, a multiple of the patch size.
        batch_size: Images per step, 2 or more.
        rounds: How often everything is timed, in turn.
        precision: "auto" takes bf16 autocast where the device computes it faster, else float32.
        layers: Guided layers: all, last, or indices such as 0,5,-1 (a leading minus needs --layers=-1).
        full_size: Image side in px at which whole N×N maps are compared.
        full_batch: Images of which they are.
        quick: Only what the bounds are of: fewer rows, and no growth.
    """

    source: str = TrainOptions.source
    out: str = "gta-bench"
    heads: int | None = None
    image_size: int = 224
    batch_size: int = 32
    rounds: int = 9
    precision: Literal["auto", "32", "bf16"] = "auto"
    layers: list[int] | str = "all"
    full_size: int = 518
    full_batch: int = 2
    quick: bool = False

    def __post_init__(self) -> None:
        read = TrainOptions(data="", out="", method="gta", layers=self.layers).layers  # "0,-1" is a list
        object.__setattr__(self, "layers", read)
        for name, least in (("image_size", 1), ("batch_size", 2), ("rounds", 2), ("full_size", 1), ("full_batch", 1)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise GtaError(f"--{flag} {getattr(self, name)} cannot be used: write {least} or more.")
        if self.precision not in ("auto", "32", "bf16"):
            raise GtaError(f"--precision {self.precision} cannot be used: write auto, 32 or bf16.")
