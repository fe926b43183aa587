"""The one list of each kind: what is in it is known to the command line, the docs, the grids and the messages.

A list over a folder holds one entry per file of that folder (files whose name begins with _ are helpers); a file is
imported when its entry is first used. Entries made at run time are added with `add`.
"""

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from gta.errors import GtaError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Entries by name, in order of their names unless `first` puts some before the others."""

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, T] | None = None,
        *,
        package: str | None = None,
        entry: Callable[[Any], T] | None = None,
        first: tuple[str, ...] = (),
        without: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            kind: what an entry is, for messages: "method", "distance".
            entries: those that are there from the start.
            package: of which every module is an entry, by the module's name.
            entry: what of such a module the entry is.
            first: names that stand before the others.
            without: modules of the package that are no entries.
        """
        self.kind = kind
        self._entries: dict[str, T] = dict(entries or {})
        self._package, self._entry = package, entry
        self._names = list(self._entries)
        if package is not None:
            folder = Path(__file__).parent.joinpath(*package.split(".")[1:])
            found = sorted(
                m.name
                for m in pkgutil.iter_modules([str(folder)])
                if not m.name.startswith("_") and m.name not in without
            )
            self._names = [*first, *(name for name in found if name not in first)]

    def add(self, name: str, entry: T) -> None:
        """One more entry, or another under a name that is there."""
        if name not in self._names:
            self._names.append(name)
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        self._names.remove(name)
        self._entries.pop(name, None)

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise GtaError(f"{self.kind} {name!r} is not known: use one of {', '.join(self._names)}.")
        if name not in self._entries:
            assert self._package is not None
            assert self._entry is not None
            self._entries[name] = self._entry(import_module(f"{self._package}.{name}"))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:  # without importing it
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
