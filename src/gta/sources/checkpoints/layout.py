"""What a family of checkpoints must say of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Tensors = dict[str, Tensor]

STEM = "patch_embed.proj.weight"
PLAIN = (  # of a plain ViT under timm's names
    "cls_token",
    "pos_embed",
    STEM,
    "blocks.0.norm1.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.attn.proj.weight",
    "blocks.0.mlp.fc1.weight",
    "norm.weight",
)


@dataclass(frozen=True)
class Converted:
    """Tensors under timm's names, and what the shapes alone do not tell.

    Attributes:
        tensors: by timm's names; keys that the model has no use for may be among them.
        architecture: timm entry point, or None for the plain one that the shapes give.
        args: arguments of it, over those that the shapes give.
        mean, std: normalisation of the channels, or None for ImageNet's.
        guess: what neither keys nor shapes tell and was assumed about the architecture, as a sentence.
    """

    tensors: Tensors
    architecture: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    guess: str = ""


@dataclass(frozen=True)
class Layout:
    """A family of checkpoint files.

    Attributes:
        name: as in messages.
        landmark: a key that every such file has, behind any prefix; keys are then taken relative to that prefix.
        keys: typical keys of the family, to name the nearest one where none fits.
        convert: renames the tensors of the prefix. May raise GtaError for members of the family that timm cannot build.
        marks: further keys that must be there, relative to the prefix.
        sign: a further condition on the tensors.
    """

    name: str
    landmark: str
    keys: tuple[str, ...]
    convert: Callable[[Tensors], Converted]
    marks: tuple[str, ...] = ()
    sign: Callable[[Tensors], bool] | None = None


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio of which timm makes `hidden` again, by int(width · ratio)."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
