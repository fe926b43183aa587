"""Which family a checkpoint is of, by its keys; and the nearest one where it is of none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gta.errors import GtaError
from gta.sources.checkpoints.augreg import AUGREG, BIG_VISION
from gta.sources.checkpoints.beit import BEIT
from gta.sources.checkpoints.clip import CLIP, SIGLIP
from gta.sources.checkpoints.dinov2 import DINOV2
from gta.sources.checkpoints.dinov3 import DINOV3
from gta.sources.checkpoints.layout import Converted, Layout, Tensors
from gta.sources.checkpoints.mae import MAE
from gta.sources.checkpoints.mocov3 import MOCOV3, MOCOV3_ALONE
from gta.sources.checkpoints.plain import DEIT3, IBOT, PLAIN_VIT

# The first that fits is taken; the plain names come last, as several families have them too.
LAYOUTS = (MOCOV3, DINOV3, CLIP, AUGREG, BIG_VISION, SIGLIP, BEIT, MAE, MOCOV3_ALONE, DINOV2, IBOT, DEIT3, PLAIN_VIT)

_TRANSFORMERS = ("embeddings.patch_embedding", ".attention.attention.query.", ".self_attn.q_proj.")


def recognise(tensors: Tensors, path: Path) -> tuple[Layout, Converted]:
    """The layout of a checkpoint and its tensors under timm's names.

    Tensors outside the chosen prefix (a student beside the teacher, say) stay as they are, among the others.

    Raises:
        GtaError: none of the layouts fits, with the nearest one's name and the keys that differ.
    """
    for layout in LAYOUTS:
        prefix = _prefix(layout.landmark, tensors)
        if prefix is None:
            continue
        inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if all(mark in inside for mark in layout.marks) and (layout.sign is None or layout.sign(inside)):
            others = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
            try:
                found = layout.convert(inside)
            except GtaError as error:
                raise GtaError(f"{path}: {error}") from None
            return layout, replace(found, tensors=others | found.tensors)
    if any(part in k for k in tensors for part in _TRANSFORMERS):
        raise GtaError(
            f"{path} is of no known layout, but has transformers' names, {some(list(tensors))}: give the folder in "
            "which its config.json lies."
        )
    raise GtaError(f"{path} is of no known layout. {nearest(tensors)}")


def nearest(tensors: Tensors) -> str:
    """The layout that shares most keys with these tensors, and what differs, as a sentence."""

    def has(key: str) -> bool:
        return any(k == key or k.endswith((f".{key}", f"/{key}")) for k in tensors)

    def likeness(layout: Layout) -> tuple[float, int]:
        there = [key for key in layout.keys if has(key)]
        return len(there) / len(layout.keys), sum(map(len, there))  # of two alike, the one that says more

    layout = max(reversed(LAYOUTS), key=likeness)
    lacks = [key for key in layout.keys if not has(key)]
    return (
        f"The nearest is {layout.name}, of which it lacks {some(lacks)}. It has {some(list(tensors))}."
        if lacks
        else f"The nearest is {layout.name}. It has {some(list(tensors))}."
    )


def _prefix(landmark: str, tensors: Tensors) -> str | None:
    """What stands before the landmark (`module.`, `backbone.`, …); the teacher's where there are several."""
    prefixes = [
        k.removesuffix(landmark) for k in tensors if k == landmark or k.endswith((f".{landmark}", f"/{landmark}"))
    ]
    return min(prefixes, key=lambda p: ("teacher" not in p, len(p)), default=None)


def some(keys: Sequence[str], most: int = 5) -> str:
    """A few of the keys, shortened, for a message."""
    shown = ", ".join(_shortened(keys[:most]))
    return f"{shown}, … ({len(keys)} in all)" if len(keys) > most else shown or "none"


def _shortened(keys: Sequence[str]) -> Iterator[str]:
    return (k if len(k) <= 60 else f"{k[:57]}…" for k in keys)
