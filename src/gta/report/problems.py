"""What is suspicious about a run's images and labels, from the frozen source's features of them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gta.report.measures import Probe, softened, unit

Array = NDArray[Any]

ALIKE = 0.97  # cosine of features, and
SAME_GREYS = 0.95  # correlation of the 16×16 grey versions: above both, two images are copies
FOLDS = 5
PENALTY = 1e-5
DOUBT, SURE = 0.02, 0.6  # a label at most so probable and another class at least so, beside no neighbour of the label
NEIGHBOURS = 5
MOST = 1e9  # images · classes · width up to which labels are checked: about half a minute
_CHUNK = 512


class Copy(NamedTuple):
    """Two images, by row of `features`, that are copies of each other in two splits."""

    train: int
    other: int
    same_file: bool


class Suspect(NamedTuple):
    """An image whose label may be wrong, by row of `features`."""

    row: int
    label: int
    guess: int
    label_probability: float
    guess_probability: float


class Images:
    """All images of a run, and how alike they are.

    Attributes:
        features: arrays of a run's features.npz.
        twins: pairs of rows that are copies, each pair once, within and between splits.
    """

    def __init__(self, features: dict[str, Array]) -> None:
        self.features = features
        self._unit = unit(features["features"])
        tiny = features["tiny"].reshape(len(self._unit), -1).astype(np.float32)
        self._grey = unit(tiny - tiny.mean(1, keepdims=True))
        self.twins = self._twins()

    def _twins(self) -> list[tuple[int, int]]:
        found = []
        for start in range(0, len(self._unit), _CHUNK):
            some = slice(start, start + _CHUNK)
            alike = (self._unit[some] @ self._unit.T > ALIKE) & (self._grey[some] @ self._grey.T > SAME_GREYS)
            found += [(start + int(i), int(j)) for i, j in zip(*np.nonzero(alike), strict=True) if start + i < j]
        return found

    def nearest(self, rows: Array, among: Array, count: int) -> tuple[Array, Array]:
        """The most alike of some images, themselves and their copies left out.

        Args:
            rows: (n,) of the images.
            among: (m,) rows to choose from, at least one.
            count: how many, as far as there are so many.

        Returns:
            Rows and cosines, (n, count), the most alike first.
        """
        count = min(count, len(among))
        own = {(i, i) for i in rows.tolist()} | {pair for a, b in self.twins for pair in ((a, b), (b, a))}
        place = {row: i for i, row in enumerate(among.tolist())}
        left_out: dict[int, list[int]] = {}
        for a, b in own:
            if b in place:
                left_out.setdefault(a, []).append(place[b])
        found = []
        for row in rows.tolist():
            likeness = self._unit[among] @ self._unit[row]
            likeness[left_out.get(row, [])] = -1
            best = np.argsort(-likeness, kind="stable")[:count]
            found.append((among[best], likeness[best]))
        return np.array([rows for rows, _ in found]), np.array([cosines for _, cosines in found])

    def copies(self) -> list[Copy]:
        """Training images of which there is a copy in val or test."""
        split, sha = self.features["split"], self.features["sha256"]
        ordered = [(a, b) if split[a] == "train" else (b, a) for a, b in self.twins if split[a] != split[b]]
        pairs = [Copy(a, b, bool(sha[a] == sha[b])) for a, b in ordered if split[a] == "train"]
        return sorted(pairs, key=lambda copy: (not copy.same_file, copy.train, copy.other))

    def suspects(self) -> list[Suspect] | None:
        """Images that look mislabelled, the surest first; None where there are too many images or too few.

        A linear probe on the features names every image, of all splits, having been fitted on four fifths of the others
        (copies lie on one side), and is softened until it is no surer than it is right. An image is suspected where it
        all but rules the label out, is sure of another class, and none of the five most alike images has the label.
        """
        labels, split = self.features["label"], self.features["split"]
        classes = len(self.features["classes"])
        images = len(labels)
        if images * classes * self._unit.shape[1] > MOST or images < 2 * FOLDS:
            return None
        fold = np.random.default_rng(0).permutation(images) % FOLDS
        for a, b in self.twins:
            fold[b] = fold[a]
        wide = self.features["features"].astype(np.float32)
        p = np.zeros((images, classes), np.float32)
        for k in range(FOLDS):
            out = fold == k
            if out.any() and not out.all():
                p[out] = Probe(wide[~out], labels[~out], classes, PENALTY)(wide[out])
        p = softened(p.astype(np.float64), labels)  # a probe is sure of too much
        own, guess = p[np.arange(images), labels], p.argmax(1)
        doubted = np.nonzero((own <= DOUBT) & (p.max(1) >= SURE))[0]
        if not len(doubted):
            return []
        near, _ = self.nearest(doubted, np.arange(images), NEIGHBOURS)
        strange = doubted[~(labels[near] == labels[doubted][:, None]).any(1)]
        found = [Suspect(int(i), int(labels[i]), int(guess[i]), float(own[i]), float(p[i].max())) for i in strange]
        return sorted(found, key=lambda s: (s.label_probability - s.guess_probability, str(split[s.row])))
