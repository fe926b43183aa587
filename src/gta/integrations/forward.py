"""A stand-in for a model's own `forward`, for loops that call the model themselves."""

import inspect
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor

from gta.errors import GtaError
from gta.guided import Guided


class GuidedForward:
    """Called instead of `model.forward`; takes the same arguments.

    The model keeps its class, its parameters and its state_dict: only the instance attribute `forward` is set.
    Copies and pickles of the model have a guide of their own.
    """

    def __init__(self, guided: Guided) -> None:
        self.guided = guided
        self._before: Callable[..., Any] | None = vars(guided.model).get("forward")
        if isinstance(self._before, GuidedForward):
            raise GtaError(f"this {type(guided.model).__name__} is guided already: release it first.")

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._original())

    def install(self) -> None:
        self.guided.model.forward = self  # type: ignore[assignment,method-assign]

    def remove(self) -> None:
        """Give the model its own forward back."""
        del self.guided.model.forward
        if self._before is not None:
            self.guided.model.forward = self._before  # type: ignore[method-assign]

    def _original(self) -> Callable[..., Any]:
        model = self.guided.model
        return self._before or MethodType(type(model).forward, model)

    def run(self, images: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Callable[[Tensor | None], Tensor]]:
        """What the model's own forward gives, and the penalty as a function of the loss."""
        options = {k: v for k, v in kwargs.items() if k == "interpolate_pos_encoding"}
        return self.guided.observe(images, partial(self._original(), *args, **kwargs), **options)
