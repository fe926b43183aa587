"""Which heads of a model are meant."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gta.errors import GtaError
from gta.vit.structure import ViTInfo


def held_heads(free: str | Sequence[tuple[int, int]] | None, layers: Sequence[int], info: ViTInfo) -> Tensor | None:
    """The heads of these layers that are not free, (layers, heads) bool; None: all.

    Args:
        free: (layer, head) pairs, or the same as text: "5.0,5.3"; negative layers count from the end.
        layers: non-negative indices.
        info: of the model.

    Raises:
        GtaError: a pair that is none of a head of these layers, or no head is left.
    """
    if not free:
        return None
    held = torch.ones(len(layers), info.heads, dtype=torch.bool)
    try:
        for layer, head in (pair.split(".") for pair in free.split(",")) if isinstance(free, str) else free:
            place = layers.index(int(layer) + info.depth if int(layer) < 0 else int(layer))
            held[place, range(info.heads).index(int(head))] = False
    except (ValueError, TypeError):
        of = f"guided layers ({', '.join(map(str, layers))}) and heads (0 to {info.heads - 1})"
        raise GtaError(
            f'free_heads must be layer.head pairs of {of}, such as "{layers[-1]}.0", got {free!r}.'
        ) from None
    if not held.any():
        raise GtaError(f"free_heads {free!r} leaves no head to guide: leave some out, or use another method.")
    return held
