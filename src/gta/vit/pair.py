"""A model being tuned with a frozen source beside it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from gta.errors import GtaError
from gta.vit.attention_logits import QueryKeyPair, Rows
from gta.vit.structure import ViTInfo
from gta.vit.whole_maps import squared_difference

Self = TypeVar("Self", bound="ModelAndSource")
Row = Tensor | QueryKeyPair


class ModelAndSource(nn.Module):
    """A module around a model; its source is no submodule, but follows `.to(device)`.

    Attributes:
        model: the user's own module; its state_dict has no trace of the source.
        source: frozen, in eval mode, out of `parameters()` and of `state_dict()`.
    """

    model: nn.Module

    def __init__(self, model: nn.Module, source: nn.Module) -> None:
        super().__init__()
        if model is source:
            raise GtaError("model and source are the same object: the source must be a frozen copy of its own.")
        self.model = model
        self._hidden_source: tuple[nn.Module, ...] = (source.requires_grad_(False).eval(),)  # hidden from nn.Module
        self.training = model.training

    @property
    def source(self) -> nn.Module:
        if not self._hidden_source:
            raise GtaError("the guide was detached, so there is no source; make a new one with gta.guide.")
        return self._hidden_source[0]

    def _apply(self: Self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        for source in self._hidden_source:
            source._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def ready_source(self) -> nn.Module:
        """The source in eval mode, where the model is and in its dtype."""
        source, ours = self.source, next(self.model.parameters())
        theirs = next(source.parameters())
        if source.training:  # somebody called train() on it
            source.eval()
        if ours.device != theirs.device or ours.dtype != theirs.dtype:  # the model was moved alone
            source.to(ours.device, ours.dtype)
        return source


def check_matching(target: ViTInfo, source: ViTInfo, rows: Rows) -> None:
    """Raise GtaError unless the rows of both can be compared one to one."""
    for what in ("depth", "heads", "grid"):
        ours, theirs = getattr(target, what), getattr(source, what)
        if ours != theirs and ours is not None and theirs is not None:
            raise GtaError(
                f"target and source differ in {what}: {ours} against {theirs}. Their attention rows can only "
                "be compared one to one; build both from the same architecture and image size."
            )
    for info in (target, source):
        if rows == "cls" and not info.has_cls:
            raise GtaError(
                f"{info.name} has no [cls] token, so there is no [cls] attention to guide. Use a model with one "
                '(timm: class_token=True; global_pool="avg" may stay), or rows="patches".'
            )


def row_pairs(layers: Sequence[int], target: list[Any], source: list[Any]) -> list[tuple[Row, Row]]:
    """Each layer's rows of target and source; GtaError where their shapes differ."""
    found = list(zip(target, source, strict=True))
    for layer, (t, s) in zip(layers, found, strict=True):
        if t.shape != s.shape:
            raise GtaError(
                f"layer {layer}: the target's rows are {tuple(t.shape)} (images, heads, patches), the source's "
                f"{tuple(s.shape)}. Build both with the same heads and image size."
            )
    return found


def squared_rows(target: Row, source: Row) -> Tensor:
    """Squared difference, (B, H), mean over queries and patches."""
    if isinstance(target, QueryKeyPair) and isinstance(source, QueryKeyPair) and len(target.shape) == 4:
        return squared_difference(target, source)
    return (target.float() - source.float()).square().flatten(2).mean(-1)
