"""Methods of transfer, by name: one short file each; adding one is one file and one line here.

A method is a `Part`: which parameters train, what is added to the loss, how batches are mixed (`gta.methods.base`).
`a+b` composes parts into one `Recipe` (`gta.methods.compose`). Nothing heavy is imported until a method is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from gta.errors import GtaError

if TYPE_CHECKING:
    from gta.methods.base import Part

METHODS: dict[str, str] = {  # name of the method and of its file -> its class there
    "plain": "Plain",
    "linear_probe": "LinearProbe",
    "lp_ft": "ProbeThenTune",
    "attention_only": "AttentionOnly",
    "bitfit": "BitFit",
    "lora": "LoRA",
    "l2_sp": "L2SP",
    "delta": "Delta",
    "bss": "BSS",
    "lwf": "LwF",
    "co_tuning": "CoTuning",
    "wise_ft": "WiseFT",
    "feature_kd": "FeatureKD",
    "gta": "GTA",
    "attention_distill": "AttentionDistill",
    "mixup": "Mixup",
    "cutmix": "CutMix",
    "transmix": "TransMix",
}


def parts_of(method: str) -> list[str]:
    """The names in `a+b`, in the order given.

    Raises:
        GtaError: a name that is not known or given twice, or `plain` with others.
    """
    names = method.split("+")
    for name in names:
        if name not in METHODS:
            raise GtaError(f"method {name!r} is not known: use one of {', '.join(METHODS)}, or several as in gta+bss.")
    if len(set(names)) < len(names):
        raise GtaError(f"method {method!r} names a part twice: write each once.")
    if "plain" in names and len(names) > 1:
        others = "+".join(name for name in names if name != "plain")
        raise GtaError(f"method {method!r}: plain is fine-tuning with nothing added; write {others}.")
    return names


def part_class(name: str) -> type[Part]:
    """The class of a method; imports its file."""
    found: type[Part] = getattr(import_module(f"gta.methods.{name}"), METHODS[name])
    return found
