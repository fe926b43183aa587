"""Methods of transfer, by name: one short file each; a file more is a method more.

A method is a `Method` (`gta.methods.base`): which parameters train, what is added to the loss, how batches are mixed.
`a+b` composes methods into one `ComposedMethod` (`gta.methods.compose`). Nothing heavy is imported until one is used.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from gta.errors import GtaError
from gta.registry import Registry

if TYPE_CHECKING:
    from gta.methods.base import Method


def _class_in(module: ModuleType) -> type[Method]:
    from gta.methods.base import Method

    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    )


METHODS: Registry[type[Method]] = Registry(
    "method", package="gta.methods", entry=_class_in, first=("auto", "plain", "gta"), without=("base", "compose")
)


def method_names(method: str) -> list[str]:
    """The names in `a+b`, in the order given.

    Raises:
        GtaError: a name that is not known or given twice, or `plain` with others.
    """
    names = method.split("+")
    for name in names:
        if name not in METHODS:
            raise GtaError(f"method {name!r} is not known: use one of {', '.join(METHODS)}, or several as in gta+bss.")
    if len(set(names)) < len(names):
        raise GtaError(f"method {method!r} has a name twice: write each once.")
    for alone, why in (("plain", "is fine-tuning with nothing added"), ("auto", "chooses what it is composed of")):
        if alone in names and len(names) > 1:
            others = "+".join(name for name in names if name != alone)
            raise GtaError(f"method {method!r}: {alone} {why}; write {others}.")
    return names
