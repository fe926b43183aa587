"""The patch embedding, computed once where target and source have the same.

Where a target's is frozen (`attention_only`, `lora`, a model that its user froze in part) it is the source's to the
bit, and both see the same images: what the source's convolution gave is then the target's too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class _Kept(NamedTuple):
    images: Tensor
    weights: tuple[Tensor, Tensor | None]
    how: tuple[Any, ...]
    versions: tuple[int, int]
    out: Tensor


class SharedStem:
    """Stands at the convolutions of both passes, the source's first; see `gta.vit.attention_logits.RowTap`."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        self._compared: tuple[tuple[Any, ...], bool] = ((), False)

    def of_source(self, images: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any) -> Tensor:
        """The convolution; kept for the target's next."""
        out = F.conv2d(images, weight, bias, *rest)
        if not images.is_inference():
            how = (*rest, _precision(images))
            self._kept = _Kept(images, (weight, bias), how, (images._version, out._version), out)
        return out

    def of_target(self, images: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any) -> Tensor:
        """What was kept where it is the very same, else the convolution; nothing is kept any longer."""
        kept, self._kept = self._kept, None
        if (
            kept is not None
            and kept.images is images  # a part of them, as one process of several may see, is another tensor
            and kept.versions == (images._version, kept.out._version)
            and kept.how == (*rest, _precision(images))
            and not any(t is not None and t.requires_grad for t in (images, weight, bias))
            and self._equal((weight, bias), kept.weights)
        ):
            return kept.out
        return F.conv2d(images, weight, bias, *rest)

    def _equal(self, ours: tuple[Tensor, Tensor | None], theirs: tuple[Tensor, Tensor | None]) -> bool:
        """Compared anew only when one of them has changed."""
        state = tuple(t if t is None else (t.data_ptr(), t._version) for t in (*ours, *theirs))
        if self._compared[0] != state:
            pairs = zip(ours, theirs, strict=True)
            same = all(a is b if a is None or b is None else a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
            self._compared = state, same
        return self._compared[1]


def _precision(images: Tensor) -> tuple[Any, ...]:
    device = images.device.type
    low = torch.is_autocast_enabled(device)
    return low, torch.get_autocast_dtype(device) if low else None
