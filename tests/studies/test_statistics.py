"""Statistics by hand, against scipy, and against published answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gta.studies.statistics import Paired, bootstrap, detectable, holm, mean_and_spread, paired, ranks


def test_mean_and_spread_by_hand():
    assert mean_and_spread([1.0, 3.0, 5.0]) == (3.0, 2.0)
    assert mean_and_spread([4.0]) == (4.0, None)
    assert mean_and_spread([]) == (None, None)


def test_paired_by_hand_and_against_scipy():
    """Differences 1, 2, 3: mean 2, standard error 1/√3, t = 2√3 on 2 degrees of freedom."""
    first, second = [11.0, 22.0, 33.0], [10.0, 20.0, 30.0]
    found = paired(first, second)
    t = 2 * math.sqrt(3)
    assert (found.difference, found.effect, found.pairs) == (2.0, 2.0, 3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))  # Student's distribution for 2 degrees, closed form
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert paired([1.0], [3.0]) == Paired(-2.0, None, None, None, None, 1)
    assert paired([1.0, 2.0], [0.0, 1.0]) == Paired(1.0, 1.0, 1.0, None, None, 2)  # equal differences: no test
    two = paired([1.0, 3.0], [0.0, 0.0])
    assert (two.p, two.low) == (None, pytest.approx(2 - 12.706205))  # no p below three
    with pytest.raises(ValueError, match="no seed"):
        paired([], [])


def test_paired_of_five_by_hand():
    """Differences 1 to 5: mean 3, standard error sqrt(2.5 / 5), t = 4.2426 with 4 degrees of freedom."""
    found = paired([11, 22, 33, 44, 55], [10, 20, 30, 40, 50])
    assert (found.difference, found.effect, found.pairs) == (3, pytest.approx(3 / 2.5**0.5), 5)
    assert found.p == pytest.approx(0.013236, abs=1e-5)
    half = 2.776445 * 0.5**0.5
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-4)


def test_holm_by_hand():
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_bootstrap_against_all_resamples():
    """Of three values there are 27 resamples: the percentiles of their means are known exactly."""
    values = [1.0, 2.0, 6.0]
    means = [np.mean([a, b, c]) for a in values for b in values for c in values]
    low, high = bootstrap(values)
    assert low == pytest.approx(np.percentile(means, 2.5, method="inverted_cdf"))
    assert high == pytest.approx(np.percentile(means, 97.5, method="inverted_cdf"))
    assert bootstrap([5.0, 5.0, 5.0]) == (5.0, 5.0)
    assert bootstrap([1.0, 2.0]) == (None, None)
    many = list(np.random.default_rng(1).normal(10, 2, 200))
    low, high = bootstrap(many)
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(many) / 200**0.5, rel=0.05)


# Demšar 2006, JMLR 7, table 2: AUC of C4.5 and three variants of it on 14 data sets of UCI.
DEMSAR = (
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip


def test_ranks_are_the_published_ones():
    found = ranks(DEMSAR)
    assert [round(mean, 3) for mean in found.means] == [3.143, 2.000, 2.893, 1.964]
    assert found.critical == pytest.approx(1.25, abs=0.005)
    assert found.sets == 14
    assert found.p == pytest.approx(stats.friedmanchisquare(*zip(*DEMSAR, strict=True)).pvalue)
    assert found.p < 0.05


def test_ranks_by_hand():
    found = ranks([[3.0, 1.0, 1.0], [9.0, 8.0, 7.0]])
    assert found.means == [1.0, 2.25, 2.75]
    assert found.critical == pytest.approx(2.343 * (3 * 4 / 12) ** 0.5, abs=1e-3)  # Demšar's q of three methods
    assert found.p is None
    assert ranks([[1.0, 2.0]]) is None
    assert ranks([[1.0], [2.0]]) is None
    assert ranks([]) is None


def test_the_detectable_effect_against_the_noncentral_t():
    effect = detectable(5)
    limit = stats.t.ppf(0.975, 4)
    power = stats.nct.sf(limit, 4, effect * 5**0.5) + stats.nct.cdf(-limit, 4, effect * 5**0.5)
    assert power == pytest.approx(0.8, abs=1e-4)
    assert detectable(2) is None
