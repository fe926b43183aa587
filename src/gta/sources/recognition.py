"""Which layout a checkpoint has, by its keys; and the nearest one where it has none of them."""

from collections.abc import Sequence
from operator import attrgetter

from gta.errors import GtaError
from gta.registry import Registry
from gta.sources.layout import Converted, Layout, Tensors

LAYOUTS = Registry[Layout]("layout", package="gta.sources.checkpoints", entry=attrgetter("LAYOUT"))

_TRANSFORMERS = ("embeddings.patch_embedding", ".attention.attention.query.", ".self_attn.q_proj.")


def recognise(tensors: Tensors) -> tuple[Layout, Converted, Tensors]:
    """The layout of a checkpoint, its tensors under timm's names, and those outside the layout's prefix.

    Such others are a student beside the teacher, say. The order of `LAYOUTS` does not matter, see `Layout.precedence`.

    Raises:
        GtaError: no layout fits, with the nearest one's name and the keys that differ; or two fit equally well.
    """
    fitting = [(layout, *parts) for layout in LAYOUTS.values() if (parts := _split(layout, tensors))]
    if not fitting and any(part in k for k in tensors for part in _TRANSFORMERS):
        raise GtaError(
            f"it is of no known layout, but has transformers' names, {some(list(tensors))}: give the folder in which "
            "its config.json lies."
        )
    if not fitting:
        raise GtaError(f"it is of no known layout. {nearest(tensors)}")
    highest = max(layout.precedence for layout, _, _ in fitting)
    (layout, inside, others), *rivals = (found for found in fitting if found[0].precedence == highest)
    if rivals:
        raise GtaError(
            f"it can be read as {layout.name} and as {rivals[0][0].name}: save the model that you mean in a file of "
            "its own, or give one of the two layouts a higher precedence."
        )
    try:
        return layout, layout.convert(inside), others
    except (KeyError, IndexError, RuntimeError) as error:
        raise GtaError(f"read as {layout.name}, it is partial or damaged ({type(error).__name__}: {error}).") from error


def nearest(tensors: Tensors) -> str:
    """The layout that shares most keys with these tensors, and what differs, as a sentence."""

    def has(key: str) -> bool:
        return any(k == key or k.endswith((f".{key}", f"/{key}")) for k in tensors)

    def likeness(layout: Layout) -> tuple[float, int, int]:
        """Of two that have the same share of their keys, the one that says more; of two alike, the plainer."""
        there = [key for key in layout.keys if has(key)]
        return len(there) / len(layout.keys), sum(map(len, there)), -layout.precedence

    layout = max(LAYOUTS.values(), key=likeness)
    lacks = [key for key in layout.keys if not has(key)]
    differs = f", of which it lacks {some(lacks)}" if lacks else ""
    return f"The nearest is {layout.name}{differs}. It has {some(list(tensors))}."


def some(keys: Sequence[str], most: int = 5) -> str:
    """A few of the keys, shortened, for a message."""
    listed = ", ".join(k if len(k) <= 60 else f"{k[:57]}…" for k in keys[:most])
    return f"{listed}, … ({len(keys)} in all)" if len(keys) > most else listed or "none"


def _split(layout: Layout, tensors: Tensors) -> tuple[Tensors, Tensors] | None:
    """The tensors behind the landmark's prefix (`module.`, `backbone.`, …) and the others; None if it does not fit.

    Of several prefixes the teacher's is taken, else the shortest.
    """
    mark = layout.landmark
    prefixes = [k.removesuffix(mark) for k in tensors if k == mark or k.endswith((f".{mark}", f"/{mark}"))]
    if not prefixes:
        return None
    prefix = min(prefixes, key=lambda p: ("teacher" not in p, len(p)))
    inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if any(k not in inside for k in layout.required_keys) or (layout.condition and not layout.condition(inside)):
        return None
    return inside, {k: v for k, v in tensors.items() if not k.startswith(prefix)}
