"""The weight λ over training, as a factor of progress.

A schedule takes the progress (steps done / all steps, 0 to below 1) and its own length (a share of training) and
returns the factor of λ. It holds no state, so that a resumed run goes on where it was. The paper (arXiv 2401.02656)
keeps λ constant and leaves its "progressive reduction" open.
"""

import math
from collections.abc import Callable

from gta.errors import GtaError
from gta.registry import Registry

Schedule = Callable[[float, float], float]


def constant(progress: float, length: float) -> float:
    """1 throughout."""
    return 1.0


def linear(progress: float, length: float) -> float:
    """From 1 to 0 in a straight line over `length`, then 0."""
    return max(0.0, 1 - progress / length)


def cosine(progress: float, length: float) -> float:
    """From 1 to 0 along half a cosine over `length`, then 0."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress / length)))


def warmup(progress: float, length: float) -> float:
    """From 0 to 1 in a straight line over `length`, then 1."""
    return min(1.0, progress / length)


def release(progress: float, length: float) -> float:
    """1 for the share `length` of training, then 0: the target is let go, and the source no longer runs."""
    return 1.0 if progress < length else 0.0


SCHEDULES: Registry[tuple[Schedule, float]] = Registry(  # with the length that is meant where none is given
    "weight schedule",
    {
        "constant": (constant, 1.0),
        "linear": (linear, 1.0),
        "cosine": (cosine, 1.0),
        "warmup": (warmup, 0.1),
        "release": (release, 0.5),
    },
)


def factor(name: str, progress: float, length: float | None = None) -> float:
    """The factor of λ.

    Args:
        name: in `SCHEDULES`.
        progress: steps done / all steps, 0 to below 1.
        length: share of training that the schedule takes, above 0 and up to 1; None for its usual one.

    Raises:
        GtaError: another name, or a length out of range.
    """
    schedule, usual = SCHEDULES[name]
    if length is not None and not 0 < length <= 1:
        raise GtaError(f"the schedule's length must be a share of training, above 0 and up to 1, got {length}.")
    return schedule(progress, usual if length is None else length)
