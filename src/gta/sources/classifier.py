"""The classifier a source was pre-trained with: `gta.load_source` leaves it out, some methods need its classes."""

from pathlib import Path
from typing import Any

from torch import nn

from gta.errors import GtaError
from gta.sources.checkpoint_files import read_checkpoint
from gta.sources.info import source_info
from gta.sources.loading import EMBEDDED


def source_classifier(source: nn.Module, method: str) -> nn.Linear:
    """A new copy of it, in float32.

    Args:
        source: from `gta.load_source`.
        method: named in the error.

    Raises:
        GtaError: the source has none (self-supervised models, such as DINOv2), or one of another width.
    """
    info, width = source_info(source), int(source.embed_dim)  # type: ignore[arg-type]
    if info.spec.startswith("timm:"):
        import timm

        supervised: Any = timm.create_model(info.spec.removeprefix("timm:"), pretrained=True)
        found = supervised.get_classifier()
        state = found[0].state_dict() if isinstance(found, tuple) else found.state_dict()
    else:
        tensors, _ = read_checkpoint(EMBEDDED.get(info.spec, Path(info.spec)))
        weight = next((k for k in tensors if k == "head.weight" or k.endswith(".head.weight")), "")
        bias = weight.removesuffix("weight") + "bias"
        state = {n: tensors[k] for n, k in (("weight", weight), ("bias", bias)) if k in tensors}
    if "weight" not in state or state["weight"].ndim != 2 or state["weight"].shape[1] != width:
        raise GtaError(
            f"method {method} needs the classifier that the source was pre-trained with, and {info.spec} has none "
            f"for its {width} features. Use a supervised source, such as timm:deit_small_patch16_224.fb_in1k, or "
            "feature_kd, which needs none."
        )
    classifier = nn.Linear(width, state["weight"].shape[0], bias="bias" in state)
    classifier.load_state_dict(state)
    return classifier
