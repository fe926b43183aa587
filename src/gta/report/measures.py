"""Numbers of a report that need no model: intervals, calibration, a linear probe, tests between runs."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BINS = 15  # of a reliability curve, as in Guo et al. 2017 (arXiv 1706.04599)


class Interval(NamedTuple):
    """A share with its 95 % interval, in percent."""

    value: float
    low: float
    high: float


def wilson(right: int, of: int) -> Interval:
    """A share of `of` > 0 images and its 95 % interval (Wilson 1927), in percent."""
    from scipy.stats import binomtest

    found = binomtest(right, of).proportion_ci(0.95, method="wilson")
    return Interval(100 * right / of, 100 * float(found.low), 100 * float(found.high))


def mcnemar(one: Array, other: Array) -> float:
    """Exact two-sided p that two classifiers are equally often right, from (n,) bool on the same images."""
    from scipy.stats import binomtest

    better, worse = int((one & ~other).sum()), int((other & ~one).sum())
    return 1.0 if better + worse == 0 else float(binomtest(better, better + worse, 0.5).pvalue)


class Bin(NamedTuple):
    """Images whose confidence is alike: share of all, mean confidence, share that is right."""

    share: float
    confidence: float
    accuracy: float


def reliability(confidence: Array, right: Array) -> list[Bin]:
    """`BINS` bins of equal width, (0, 1/15], (1/15, 2/15], …; empty ones are left out."""
    which = np.clip(np.ceil(confidence * BINS).astype(int), 1, BINS) - 1
    members = [which == i for i in range(BINS) if (which == i).any()]
    return [Bin(float(m.mean()), float(confidence[m].mean()), float(right[m].mean())) for m in members]


def calibration_error(confidence: Array, right: Array) -> float:
    """Expected calibration error (Guo et al. 2017): mean over images of |accuracy − confidence| of their bin."""
    return sum(b.share * abs(b.accuracy - b.confidence) for b in reliability(confidence, right))


def tempered(probabilities: Array, temperature: float) -> Array:
    """Softmax of the logits over a temperature, from (n, classes) probabilities."""
    logs = np.log(np.maximum(probabilities, 1e-300)) / temperature
    powers = np.exp(logs - logs.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def softened(probabilities: Array, labels: Array) -> Array:
    """`tempered` by the temperature, 1 or above, that makes the labels most probable."""
    from scipy.optimize import minimize_scalar

    def loss(log: float) -> float:
        p = tempered(probabilities, float(np.exp(log)))[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(p, 1e-300)).mean())

    return tempered(probabilities, float(np.exp(minimize_scalar(loss, bounds=(0, 3), method="bounded").x)))


class Probe:
    """A linear classifier on features: multinomial logistic regression by L-BFGS.

    The features are standardised. Its L2 penalty is `penalty` · ‖weights‖² / 2 beside the mean cross-entropy.
    """

    def __init__(self, features: Array, labels: Array, classes: int, penalty: float = 1e-2) -> None:
        """
        Args:
            features: (n, width).
            labels: (n,) int, each below `classes`.
            classes: how many.
            penalty: above 0.
        """
        from scipy.optimize import minimize
        from threadpoolctl import threadpool_limits

        self._mean, self._spread = features.mean(0), features.std(0) + 1e-6
        x = np.hstack([self._scaled(features), np.ones((len(features), 1), np.float32)])
        truth = np.eye(classes, dtype=np.float32)[labels]

        def loss(flat: Array) -> tuple[float, Array]:
            weights = flat.reshape(x.shape[1], classes)
            p = _softmax(x @ weights)
            decayed = weights * np.r_[np.ones(x.shape[1] - 1), 0][:, None]  # the bias is free
            value = -np.log(np.maximum(p[truth > 0], 1e-300)).mean() + penalty * (decayed**2).sum() / 2
            return value, (x.T @ (p - truth) / len(x) + penalty * decayed).ravel()

        start, few = np.zeros(x.shape[1] * classes), {"maxiter": 100}
        with threadpool_limits(1):  # small products: more threads wait for each other, on a busy machine for minutes
            found = minimize(loss, start, jac=True, method="L-BFGS-B", options=few)
        self._weights = found.x.reshape(-1, classes)

    def _scaled(self, features: Array) -> Array:
        return np.asarray((features - self._mean) / self._spread / np.sqrt(features.shape[1]))

    def __call__(self, features: Array) -> Array:
        """Probabilities, (n, classes)."""
        return _softmax(self._scaled(features) @ self._weights[:-1] + self._weights[-1])


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def unit(features: Array) -> Array:
    """(n, width) float32 of length 1."""
    wide = features.astype(np.float32)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))
