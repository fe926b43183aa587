"""How often a model is right, also where some classes have many more images than others."""

import torch
from torch import Tensor


def accuracies(labels: Tensor, guesses: Tensor) -> dict[str, float]:
    """All in percent.

    Args:
        labels: (n,) int64, n of 1 or more.
        guesses: (n,) int64.

    Returns:
        `top1`: share of images guessed right. `balanced_accuracy`: that share of each class, mean over the classes that
        have images. `macro_f1`: F1 of each class, 2·right / (its images + guesses of it), mean over the classes that
        have images or guesses.
    """
    classes = int(torch.maximum(labels, guesses).max()) + 1
    right = labels[labels == guesses].bincount(minlength=classes).double()
    images, guessed = (of.bincount(minlength=classes).double() for of in (labels, guesses))
    there = images > 0
    seen = images + guessed > 0
    return {
        "top1": 100 * int(right.sum()) / len(labels),
        "balanced_accuracy": 100 * float((right[there] / images[there]).mean()),
        "macro_f1": 100 * float((2 * right[seen] / (images + guessed)[seen]).mean()),
    }
