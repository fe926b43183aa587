"""What is no longer finite is no result."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from gta.errors import GtaError


class Diverged(GtaError):
    """Loss, weights or measures are no longer finite."""


def check_finite(what: str, values: Mapping[str, Any], way_out: str = "start another run with a lower --lr") -> None:
    """Raise Diverged where a number is NaN or infinite."""
    wrong = [key for key, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
    if wrong:
        raise Diverged(f"{what} no longer finite ({', '.join(f'{key} {values[key]}' for key in wrong)}): {way_out}.")


def check_weights(model: nn.Module) -> None:
    """Raise Diverged where a weight is NaN or infinite."""
    state = model.state_dict()
    wrong = [k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if wrong:
        raise Diverged(
            f"{len(wrong)} of {len(state)} tensors are no longer finite, {wrong[0]} among them: start another run with "
            "a lower --lr."
        )
