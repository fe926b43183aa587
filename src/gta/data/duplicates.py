"""Images that are in two splits: the same file, or one that looks the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gta.data.images import open_rgb
from gta.data.listing import Sample

NEAR = 4  # bits of 64 that may differ
_CHUNK = 2048
Pair = tuple[Sample, Sample]


def same_files(here: Sequence[Sample], there: Sequence[Sample], sums: Mapping[Path, str]) -> list[Pair]:
    """Pairs of samples whose files have the same bytes.

    Args:
        here, there: samples of two splits.
        sums: SHA-256 per file.
    """
    by_sum: dict[str, list[Sample]] = {}
    for s in here:
        by_sum.setdefault(sums[s.path], []).append(s)
    return [(s, t) for t in there for s in by_sum.get(sums[t.path], ())]


def look_alikes(here: Sequence[Sample], there: Sequence[Sample], most: int = NEAR) -> list[Pair]:
    """Pairs of samples whose difference hashes differ in few bits: the same picture resized or compressed again.

    Args:
        here, there: samples of two splits, readable.
        most: bits of 64 that may differ.

    Returns:
        Nearest pairs first. Plain images (all of one colour, say) look alike without being the same: these are pairs
        to look at, not a verdict.
    """
    one, two = _bits(here), _bits(there)
    pairs = []
    for start in range(0, len(one), _CHUNK):
        distance = (64 - one[start : start + _CHUNK] @ two.T) / 2
        for i, j in (distance <= most).nonzero().tolist():
            pairs.append((int(distance[i, j]), start + i, j))
    return [(here[i], there[j]) for _, i, j in sorted(pairs)]


def difference_hash(image: Image.Image) -> Tensor:
    """64 signs of an image, (64,) float32 of -1 and 1: whether a pixel of its 9×8 grey version is darker than the next.

    Krawetz 2013, "Kind of like that" (hackerfactor.com): unchanged by scale, compression, brightness and contrast.
    """
    import numpy as np

    small = torch.from_numpy(np.array(image.convert("F").resize((9, 8), Image.Resampling.BILINEAR)))
    return torch.where(small[:, :-1] < small[:, 1:], 1.0, -1.0).flatten()


def _bits(samples: Sequence[Sample]) -> Tensor:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        hashes = list(pool.map(lambda s: difference_hash(open_rgb(s.path)), samples))
    return torch.stack(hashes) if hashes else torch.empty(0, 64)
