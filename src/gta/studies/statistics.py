"""What a few runs say: means, spreads, and whether two methods differ over the same seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Paired:
    """Two methods over the same seeds.

    Attributes:
        difference: mean of first − second.
        low, high: 95 % confidence interval of the mean (t distribution); None below two pairs.
        p: two-sided paired t-test (Student 1908); None below two pairs, or where all differences are equal.
        pairs: seeds that both have.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n − 1); None where there are too few values."""
    return (fmean(values) if values else None), (stdev(values) if len(values) > 1 else None)


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare values of the same seeds, in the same order.

    Raises:
        ValueError: there are none, or not as many of both.
    """
    from scipy.stats import ttest_rel

    mean, spread = mean_and_spread([a - b for a, b in zip(first, second, strict=True)])
    if mean is None:
        raise ValueError("there is no seed that both have")
    if not spread:  # scipy would divide by 0: one pair has no interval, equal differences have one without width
        edge = None if spread is None else mean
        return Paired(mean, edge, edge, None, len(first))
    test = ttest_rel(first, second)
    low, high = test.confidence_interval(0.95)
    return Paired(mean, float(low), float(high), float(test.pvalue), len(first))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for being several (Holm 1979), in the order given; None stays None.

    Own code: scipy corrects the false discovery rate only, and statsmodels would be a dependency for these lines.
    """
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, i) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        corrected[i] = least
    return corrected
