"""What AdamW is given: groups of parameters with their learning rates, and the rate's course."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from timm.optim import param_groups_layer_decay
from torch import nn

from gta.methods.base import classifier_of
from gta.training.options import TrainOptions

WARM_UP = 0.1  # of all steps


def parameter_groups(model: nn.Module, options: TrainOptions, own: Sequence[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Groups for AdamW: the backbone's first, then the classifier's, each without and with weight decay.

    With a layer decay the backbone has such a pair for every block, the last block's first (BEiT, arXiv 2106.08254).
    The final norm trains at the full rate, as in BEiT and MAE; timm's groups have it with the last block.

    Args:
        model: the target.
        options: lr, head_lr_scale, layer_decay and weight_decay are read.
        own: the method's own parameters; they train like the classifier's.
    """
    lr, layer_decay = options.rates
    spared = list(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else []  # type: ignore[operator]
    timms = param_groups_layer_decay(model, 1.0, no_weight_decay_list=spared, layer_decay=layer_decay)
    found = {id(p): (group["lr_scale"], group["weight_decay"]) for group in timms for p in group["params"]}
    classifier = {id(p) for p in classifier_of(model)}
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale, decay = found[id(parameter)]
            is_head = id(parameter) in classifier
            scale = 1.0 if is_head or name.startswith(("norm.", "fc_norm.")) else scale
            groups.setdefault((is_head, -scale, decay), []).append(parameter)
    for parameter in own:
        if parameter.requires_grad:
            groups.setdefault((True, -1.0, float(parameter.ndim > 1)), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (options.head_lr_scale if is_head else -negative),
            "weight_decay": options.weight_decay * decay,
        }
        for (is_head, negative, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def rate(step: int, edges: Sequence[int]) -> float:
    """Factor of the learning rate: linear warm-up and cosine to zero, anew from each of `edges` but the last."""
    begin, end = next(((a, b) for a, b in pairwise(edges) if step < b), (edges[-2], edges[-1]))
    warm = max(1, round(WARM_UP * (end - begin)))
    if step - begin < warm:
        return (step - begin + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - begin - warm) / max(1, end - begin - warm)))
