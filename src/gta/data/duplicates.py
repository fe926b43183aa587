"""Images that are there twice: the same file, or one that looks the same."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gta.data.images import on_all_cores, open_rgb
from gta.data.sample import Sample

NEAR = 4  # bits of 64 that may differ
_CHUNK = 256
Pair = tuple[Sample, Sample]


def same_files(here: Sequence[Sample], there: Sequence[Sample]) -> list[Pair]:
    """Each sample of `there` whose file has the same bytes as one of `here`, with the first of those; all were read."""
    first: dict[str, Sample] = {}
    for s in here:
        first.setdefault(s.sha256, s)
    return [(first[t.sha256], t) for t in there if t.sha256 in first]


def look_alikes(here: Sequence[Sample], there: Sequence[Sample], most: int = NEAR) -> list[Pair]:
    """Each sample of `there` whose difference hash differs in few bits from one of `here`, with the nearest of those:
    the same picture resized or compressed again.

    Args:
        here, there: samples of two splits, readable.
        most: bits of 64 that may differ.

    Returns:
        Nearest pairs first. Plain images (all of one colour, say) look alike without being the same: these are pairs
        to look at, not a verdict.
    """
    if not here or not there:
        return []
    one, two = _bits(here), _bits(there)
    hashes, of = one.unique(dim=0, return_inverse=True)  # of pictures alike, one is compared
    first = torch.full((len(hashes),), len(one)).scatter_reduce(0, of, torch.arange(len(one)), "amin")
    pairs = []
    for start in range(0, len(two), _CHUNK):
        likeness, nearest = (two[start : start + _CHUNK] @ hashes.T).max(1)
        distance = (64 - likeness) / 2
        for j in (distance <= most).nonzero().flatten().tolist():
            pairs.append((int(distance[j]), int(first[nearest[j]]), start + j))
    return [(here[i], there[j]) for _, i, j in sorted(pairs)]


def alike_groups(samples: Sequence[Sample], most: int = NEAR) -> list[int]:
    """Of each sample a group's number, the same for images that look alike and for those that look like one of these.

    Args:
        samples: readable.
        most: bits of 64 that may differ.
    """
    if not samples:
        return []
    from scipy.sparse import coo_array  # an eighth of a second, which nobody else waits for
    from scipy.sparse.csgraph import connected_components

    hashes, of = _bits(samples).unique(dim=0, return_inverse=True)
    near = [
        (start + i, j)
        for start in range(0, len(hashes), _CHUNK)
        for i, j in (((64 - hashes[start : start + _CHUNK] @ hashes.T) / 2) <= most).nonzero().tolist()
    ]
    ones, others = zip(*near, strict=True)
    graph = coo_array((np.ones(len(near)), (ones, others)), shape=(len(hashes), len(hashes)))
    _, groups = connected_components(graph, directed=False)
    return [int(groups[i]) for i in of.tolist()]


def difference_hash(image: Image.Image) -> Tensor:
    """64 signs of an image, (64,) float32 of -1 and 1: whether a pixel of its 9×8 grey version is darker than the next.

    Krawetz 2013, "Kind of like that" (hackerfactor.com): unchanged by scale, compression, brightness and contrast.
    """
    small = torch.from_numpy(np.array(image.convert("F").resize((9, 8), Image.Resampling.BILINEAR)))
    return torch.where(small[:, :-1] < small[:, 1:], 1.0, -1.0).flatten()


def _bits(samples: Sequence[Sample]) -> Tensor:
    return torch.stack(on_all_cores(lambda s: difference_hash(open_rgb(s.path)), samples))
