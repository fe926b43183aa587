"""What a family of checkpoint files must say of itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gta.errors import GtaError

Tensors = dict[str, Tensor]

STEM = "patch_embed.proj.weight"
_LAYERS = ("blocks.0.norm1", "blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.fc1", "norm")
PLAIN = ("cls_token", "pos_embed", STEM, *(f"{layer}.weight" for layer in _LAYERS))  # typical keys of timm's plain ViT
MAX_DEPTH = 1000


@dataclass(frozen=True)
class Converted:
    """Tensors under timm's names, and what the shapes alone do not tell.

    Attributes:
        tensors: by the names of timm, or by those that its `checkpoint_filter_fn` renames; keys that the model has no
            use for may be among them.
        architecture: timm entry point, or None for the plain one that the shapes give.
        args: arguments of it, over those that the shapes give; with `img_size` among them, the shapes are not asked.
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
    """A family of checkpoint files; `gta.sources.recognition.LAYOUTS` lists them.

    Attributes:
        name: as in messages.
        convert: renames the tensors. May raise GtaError for members of the family that timm cannot build.
        landmark: a key that every such file has, behind any prefix; keys are then taken relative to that prefix.
        required_keys: further keys that must be there.
        condition: a further condition on the tensors.
        typical_keys: more keys of the family, to name the nearest layout where none fits.
        precedence: of several layouts that fit a file the one of highest precedence is taken; where two share it, the
            file is refused. 0 is that of timm's own names, 1 and 2 are those of keys that other families have as well.
    """

    name: str
    convert: Callable[[Tensors], Converted] = Converted
    landmark: str = STEM
    required_keys: tuple[str, ...] = ()
    condition: Callable[[Tensors], bool] | None = None
    typical_keys: tuple[str, ...] = PLAIN
    precedence: int = 3

    @property
    def keys(self) -> tuple[str, ...]:
        """The typical keys, the landmark and the required ones, each once."""
        return tuple(dict.fromkeys((*self.typical_keys, self.landmark, *self.required_keys)))


def count_blocks(keys: Iterable[str]) -> int:
    """One more than the highest N of the keys `blocks.N.…`; 0 where there are none.

    Raises:
        GtaError: MAX_DEPTH or more.
    """
    numbers = (k.split(".")[1] for k in keys if k.startswith("blocks."))
    depth = 1 + max((int(n) for n in numbers if n.isdecimal()), default=-1)
    if depth > MAX_DEPTH:
        raise GtaError(f"it numbers a block {depth - 1:,}: no ViT is so deep; the file is damaged or hostile.")
    return depth


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio of which timm makes `hidden` again, by int(width · ratio)."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
