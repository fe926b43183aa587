"""What is read of a model while it runs, and a pass that runs no further than that needs."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from gta.vit.structure import is_compiled

T = TypeVar("T")


class Capture(Protocol):
    """Reads something of one forward pass, around which it is entered.

    Attributes:
        on_complete: called (with the capture) as soon as all is read, where a pass may then stop; else None.
        paused: reads nothing while another model's pass runs inside the one that it is entered around.
    """

    on_complete: Callable[[Any], None] | None
    paused: bool

    def __enter__(self) -> Any: ...
    def __exit__(self, *raised: Any) -> Any: ...

    def read(self, images: Tensor) -> Any:
        """After the pass on `images`, (B, C, height, width): what was read.

        Raises:
            GtaError: it is not all there.
        """


class StopForward(BaseException):
    """Raised inside a forward pass that has given all that it was run for."""


class _Entered(threading.local):
    """What is entered around a pass in this thread.

    Attributes:
        captures: those that see every call of attention, the outermost first.
        attend: attention and its [cls] row in one, from q, k, v, scale and the row's first key; None for neither.
    """

    def __init__(self) -> None:
        self.captures: list[Capture] = []
        self.attend: Callable[[Tensor, Tensor, Tensor, float, int], tuple[Tensor, Tensor] | None] | None = None


entered = _Entered()


def run_within(captures: Sequence[Capture], run: Callable[[], T]) -> T:
    """What `run` returns, all captures entered around it, the last one innermost."""
    if not captures:
        return run()
    with captures[0]:  # no ExitStack: torch.compile traces this
        return run_within(captures[1:], run)


def run_and_capture(
    model: Callable[..., Any], images: Tensor, captures: Sequence[Capture], **options: Any
) -> list[Any]:
    """Run a model once without autograd, no further than all the captures need.

    Args:
        model: a ViT, or a function that runs one; in whatever mode (train or eval) it is in.
        images: (B, C, height, width).
        captures: what is to be read; those that were entered before, around another model's pass, read nothing.
        options: keywords for the model's forward.

    Returns:
        What each capture has read.
    """
    # a compiled pass cannot be left half-way
    compiled = torch.compiler.is_compiling() or (isinstance(model, nn.Module) and is_compiled(model))
    missing = len(captures)

    def complete(capture: Capture) -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            raise StopForward

    for capture in captures:
        capture.on_complete = None if compiled else complete
    outer = [] if torch.compiler.is_compiling() else [c for c in entered.captures if not c.paused]
    for capture in outer:
        capture.paused = True
    try:
        with torch.no_grad():
            run_within(captures, lambda: model(images, **options))
    except StopForward:
        pass
    finally:
        for capture in outer:
            capture.paused = False
    return [capture.read(images) for capture in captures]


class SourcePass(nn.Module):
    """How the source's pass is run: as it is. `gta.acceleration` has a quicker one.

    Attributes:
        step: of the training.
        steps: of the training in all; None where nobody knows.
        compiles: whether it is compiled; None while that is not decided.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.steps: int | None = None
        self.compiles: bool | None = False

    def run(self, read: Callable[[Tensor], list[Any]], images: Tensor) -> list[Any]:
        """What `read`, the source's pass on `images`, captures."""
        return read(images)

    def check(self, distance: Callable[[list[Any]], Tensor], exact: Tensor) -> None:
        """After a step: its distance, and the distance as a function of what was captured of the source."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every submodule's own mode is restored at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
