"""Probabilities that mean what they say: one temperature for all logits (Guo et al. 2017, arXiv 1706.04599).

It changes no guess. It is fitted on images that were not trained on, which are often few: when all of them are guessed
right, the likelihood alone would ask for a temperature of 0, that is, for certainty. A Gaussian of width 1 about ln T =
0 (no change) is therefore laid over it, which matters the less the more images there are.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

BINS = 15  # of Guo et al.
WIDEST = 5.0  # |ln T|


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T that makes labels most probable: of sum of cross-entropies(logits / T) + (ln T)² / 2 the least.

    Args:
        logits: (n, classes) of images that were not trained on; n of 1 or more.
        labels: (n,) int64.
    """
    from scipy.optimize import minimize_scalar  # a tenth of a second, which no training waits for

    logits = logits.double()

    def misfit(log: float) -> float:
        return float(cross_entropy(logits / math.exp(log), labels, reduction="sum")) + log * log / 2

    return math.exp(float(minimize_scalar(misfit, bounds=(-WIDEST, WIDEST), method="bounded").x))


def calibration_error(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Expected calibration error in percentage points: how far the probability of the guess is from how often it is
    right, mean over 15 bins of equal width, weighted by their images.

    Args:
        logits: (n, classes), n of 1 or more.
        labels: (n,) int64.
        temperature: that divides them.
    """
    confidence, guesses = (logits.double() / temperature).softmax(-1).max(-1)
    surplus = confidence - (guesses == labels).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # (0, 1/15], (1/15, 2/15], …
    return 100 * float(torch.zeros(BINS, dtype=surplus.dtype).index_add(0, bins, surplus).abs().sum()) / len(labels)
