"""What a source is: where it came from, how its images are normalised, how much of it the file filled."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gta.errors import GtaError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SourceInfo:
    """What `load_source` found; kept on the source as `source.info`.

    Attributes:
        spec: the spec that was loaded.
        architecture: timm entry point; `timm.create_model(architecture, **model_args)` builds the model.
        model_args: its arguments, image size included.
        mean, std: normalisation of the RGB channels in [0, 1].
        matched, missing, unexpected: keys of the model (its classifier left out) that the file filled, that
            it did not fill (absent, or of another shape), and keys of the file that the model has no use for.
        notes: what was assumed or not known, in sentences.
        layout: the family of checkpoints that the file was recognised as; "timm" or "transformers" for weights from
            those libraries' hubs and folders.
    """

    spec: str
    architecture: str
    model_args: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    layout: str = "timm"
    notes: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """Share of the model's keys that were filled, 0 to 1."""
        return len(self.matched) / max(1, len(self.matched) + len(self.missing))

    @property
    def image_size(self) -> int:
        """Side of the images in px."""
        size = self.model_args["img_size"]
        return int(size if isinstance(size, int) else size[0])


def source_info(source: nn.Module) -> SourceInfo:
    """What `load_source` found when it loaded this source.

    Raises:
        GtaError: it was not loaded by `load_source`.
    """
    info = getattr(source, "info", None)
    if not isinstance(info, SourceInfo):
        raise GtaError(f"this {type(source).__name__} did not come from gta.load_source: load it with that.")
    return info


def digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of the state dict, as 64 hex digits."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(f"{name}{tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return sha.hexdigest()
