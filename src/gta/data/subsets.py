"""Seeded, nested subsets of a class's images.

Every image gets a place in line by the SHA-256 of (seed, its path inside the data folder). The place does not
depend on the other images, so the 15 % set lies inside the 30 % set, on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal

from gta.errors import GtaError


def in_line(names: Sequence[str], seed: int) -> list[str]:
    """The names in their seeded order."""
    return sorted(names, key=lambda name: hashlib.sha256(_bytes(f"{seed}\0{name}")).digest())


def kept(names: Sequence[str], fraction: float, seed: int) -> list[str]:
    """The first ceil(fraction × n) names in line; in decimal, so that 0.07 × 100 is 7 and not 8.

    Raises:
        GtaError: fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise GtaError(f"fraction={fraction} is not a share: write a number above 0 and up to 1, such as 0.15.")
    count = int((Decimal(str(fraction)) * len(names)).to_integral_value(ROUND_CEILING))
    return in_line(names, seed)[:count]


def held_out(names: Sequence[str], seed: int) -> list[str]:
    """A tenth of one class for validation: the last in line, at least one, none where only one image exists.

    Taken from the other end than `kept`.
    """
    count = max(1, round(len(names) / 10)) if len(names) > 1 else 0
    return in_line(names, seed)[len(names) - count :]


def digest(lines: Sequence[str]) -> str:
    """SHA-256 over the sorted lines, as 64 hex digits."""
    return hashlib.sha256(_bytes("\n".join(sorted(lines)))).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # file names may be any bytes
