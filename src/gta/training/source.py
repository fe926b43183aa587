"""The source of a run of `gta train`."""

from torch import nn

from gta.errors import GtaError
from gta.sources.loading import load_source


def load_for_training(spec: str, image_size: int, heads: int | None) -> nn.Module:
    """`load_source`, of what `gta train` can build targets from: timm's models.

    Raises:
        GtaError: as `load_source`, or a model of transformers.
    """
    source = load_source(spec, image_size, heads=heads)
    if not hasattr(source, "get_classifier"):
        raise GtaError(
            f"--source {spec} is transformers' {type(source).__name__}, and gta train builds and saves models of timm. "
            "Guide it in transformers' own Trainer (examples/transformers_trainer.py), or give the same weights as "
            "timm:NAME or as their authors' checkpoint file."
        )
    return source
