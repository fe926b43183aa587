"""What a handful of seeds can carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gta.errors import GtaError


@dataclass(frozen=True)
class Paired:
    """A paired comparison over seeds.

    Attributes:
        difference: mean of first − second.
        low, high: 95 % confidence interval of that mean.
        p: two-sided p-value of the paired t-test.
        seeds: pairs.
    """

    difference: float
    low: float
    high: float
    p: float
    seeds: int


def paired_t(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Paired t-test (Student 1908) of first against second, in the unit they are in.

    Raises:
        GtaError: fewer than two pairs, or lists of different length.
    """
    from scipy.stats import ttest_rel

    if len(first) != len(second) or len(first) < 2:
        raise GtaError(f"a paired test needs two or more pairs, but got {len(first)} and {len(second)} values.")
    test = ttest_rel(first, second)
    interval = test.confidence_interval(0.95)
    mean = sum(a - b for a, b in zip(first, second, strict=True)) / len(first)
    return Paired(mean, float(interval.low), float(interval.high), float(test.pvalue), len(first))
