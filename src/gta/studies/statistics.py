"""What a few runs say: means with intervals, whether two methods differ over the same seeds, ranks over data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

ENOUGH = 3  # seeds below which no p is given
RESAMPLES = 9999


@dataclass(frozen=True)
class Paired:
    """Two methods over the same seeds.

    Attributes:
        difference: mean of first − second.
        low, high: 95 % confidence interval of the mean (t distribution); None below two pairs.
        effect: difference in standard deviations of the differences (Cohen's d_z); None where these are 0 or unknown.
        p: two-sided paired t-test (Student 1908); None below three pairs, or where all differences are equal.
        pairs: seeds that both have.
    """

    difference: float
    low: float | None
    high: float | None
    effect: float | None
    p: float | None
    pairs: int


@dataclass(frozen=True)
class Ranks:
    """Methods over several data sets (Demšar 2006, JMLR 7).

    Attributes:
        means: average rank of each method; 1 is the best, equals share theirs.
        critical: average ranks that are further apart differ at the 5 % level (Nemenyi 1963).
        p: Friedman's test that all methods are equal; None below three methods or data sets.
        sets: number of data sets.
    """

    means: list[float]
    critical: float
    p: float | None
    sets: int


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n − 1); None where there are too few values."""
    return (fmean(values) if values else None), (stdev(values) if len(values) > 1 else None)


def bootstrap(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean: percentiles of 9,999 seeded resamples (Efron 1979). None below three values.

    Of few values it is too narrow; it never reaches beyond the lowest and highest.
    """
    import numpy as np
    from scipy import stats

    if len(values) < ENOUGH:
        return None, None
    found = stats.bootstrap(
        (list(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


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
        return Paired(mean, edge, edge, None, None, len(first))
    test = ttest_rel(first, second)
    low, high = test.confidence_interval(0.95)
    p = float(test.pvalue) if len(first) >= ENOUGH else None
    return Paired(mean, float(low), float(high), mean / spread, p, len(first))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for being several (Holm 1979), in the order given; None stays None."""
    from statsmodels.stats.multitest import multipletests

    known = [p for p in ps if p is not None]
    corrected = iter(multipletests(known, method="holm")[1] if known else ())
    return [None if p is None else float(next(corrected)) for p in ps]


def ranks(values: Sequence[Sequence[float]]) -> Ranks | None:
    """Average ranks of methods.

    Args:
        values: of each data set, one number per method; more is better.

    Returns:
        None for fewer than two methods or data sets.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    sets, methods = len(values), len(values[0]) if values else 0
    if sets < 2 or methods < 2:
        return None
    of_set = [rankdata([-value for value in row]) for row in values]
    quantile = float(studentized_range.ppf(0.95, methods, float("inf"))) / 2**0.5
    critical = quantile * (methods * (methods + 1) / (6 * sets)) ** 0.5
    p = None
    if sets >= 3 and methods >= 3 and any(len(set(row)) > 1 for row in of_set):
        p = float(friedmanchisquare(*zip(*values, strict=True)).pvalue)
    return Ranks([fmean(column) for column in zip(*of_set, strict=True)], critical, p, sets)


def detectable(seeds: int) -> float | None:
    """The effect (Cohen's d_z) that a paired t-test at 5 % finds in 8 of 10 studies of so many seeds, uncorrected.

    None below three seeds.
    """
    from statsmodels.stats.power import TTestPower

    return float(TTestPower().solve_power(nobs=seeds, alpha=0.05, power=0.8)) if seeds >= ENOUGH else None
