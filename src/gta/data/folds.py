"""Folds of cross-validation: every class spread over them, and no image in one that has a near-copy in another."""

from collections import Counter
from collections.abc import Sequence

from gta.data.duplicates import alike_groups
from gta.data.sample import Sample
from gta.data.subsets import seeded_order
from gta.errors import GtaError


def folds_of(samples: Sequence[Sample], classes: Sequence[str], folds: int, seed: int) -> list[int]:
    """The fold of each sample, 0 to folds − 1.

    Groups of images that look alike are dealt out, the largest first and otherwise in the order of the seed, each to
    the fold that has the fewest images of its classes, then the fewest at all.

    Args:
        samples: that were read.
        classes: names in label order.
        folds: how many, 2 or more.
        seed: of the order.

    Raises:
        GtaError: a class that is one group, so that a model would be trained without it; or fewer groups than folds.
    """
    group = alike_groups(samples)
    members: dict[int, list[Sample]] = {}
    for number, sample in zip(group, samples, strict=True):
        members.setdefault(number, []).append(sample)
    alone = Counter(label for of in members.values() for label in {sample.label for sample in of})
    single = [classes[label] for label, count in sorted(alone.items()) if count < 2]
    if single:
        raise GtaError(
            f"--cross-validate leaves out each image once, and {len(single)} classes have one image only, or images "
            f"that all look alike, {single[0]!r} among them: add others, or remove the class."
        )
    if len(members) < folds:
        raise GtaError(f"--cross-validate {folds} needs as many different images, got {len(members)}: use fewer folds.")
    first = {min(sample.name for sample in of): number for number, of in members.items()}
    order = sorted((first[name] for name in seeded_order(list(first), seed)), key=lambda number: -len(members[number]))
    of_class = [Counter[int]() for _ in range(folds)]
    place: dict[int, int] = {}
    for number in order:
        labels = Counter(sample.label for sample in members[number])
        crowded = [
            (sum(counts[label] for label in labels), counts.total(), fold) for fold, counts in enumerate(of_class)
        ]
        place[number] = min(crowded)[-1]
        of_class[place[number]].update(labels)
    return [place[number] for number in group]
