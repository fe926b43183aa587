"""Seeded, nested subsets of a class's images.

Images are ordered by the SHA-256 of (seed, path inside the data folder). An image's place does not depend on the other
images, so the 15 % set lies inside the 30 % set, on every machine.
"""

import hashlib
from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal

from gta.data.sample import Sample
from gta.errors import GtaError


def seeded_order(names: Sequence[str], seed: int) -> list[str]:
    """The names in the order of a seed."""
    return sorted(names, key=lambda name: hashlib.sha256(_bytes(f"{seed}\0{name}")).digest())


def take_fraction(names: Sequence[str], fraction: float, seed: int) -> list[str]:
    """The first ceil(fraction × n) names in seeded order; in decimal, so that 0.07 × 100 is 7 and not 8.

    Raises:
        GtaError: fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise GtaError(f"fraction must be above 0 and up to 1, such as 0.15, got {fraction}.")
    count = int((Decimal(str(fraction)) * len(names)).to_integral_value(ROUND_CEILING))
    return seeded_order(names, seed)[:count]


def held_out(names: Sequence[str], seed: int, fraction: float = 0.1) -> list[str]:
    """A share of one class for validation: at least one and not all, none where only one image exists.

    The last in seeded order, so that `take_fraction` takes from the other end.
    """
    count = min(max(1, round(len(names) * fraction)), len(names) - 1)
    return seeded_order(names, seed)[len(names) - count :]


def digest(samples: Sequence[Sample]) -> str:
    """SHA-256 over the sorted lines "name sha256-of-the-file" of samples that were read, as 64 hex digits."""
    return hashlib.sha256(_bytes("\n".join(sorted(f"{s.name} {s.sha256}" for s in samples)))).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # file names may be any bytes
