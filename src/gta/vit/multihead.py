"""torch.nn.MultiheadAttention for function modes that want to see inside it (torchvision's ViTs)."""

from types import FunctionType
from typing import Any

import torch.nn.functional as F


def _transparent() -> FunctionType:
    """F.multi_head_attention_forward that function modes can see into.

    Where a mode is entered, torch's own hands itself to the mode as one piece, again and again if it is called
    inside. This is the same code, for which `has_torch_function` is always false.
    """
    original = F.multi_head_attention_forward
    names = {k: v for k, v in vars(F).items() if k != "__name__"}  # or dynamo looks names up in torch's module
    names["has_torch_function"] = _never
    copy = FunctionType(original.__code__, names, original.__name__, original.__defaults__)
    copy.__kwdefaults__ = original.__kwdefaults__
    return copy


def _never(_: Any) -> bool:
    return False


multi_head_attention_forward = _transparent()
