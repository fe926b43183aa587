"""The images of a page: what each run said of them, the training images nearest to them, labels and copies to check."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gta.report.pictures import embedded, sheet
from gta.report.problems import Copy, Images, Suspect
from gta.report.run import Predictions, RunFiles

NEAREST = 3
TOP = 5  # classes of which the probability is told
MOST = 500  # images of a page
SIDES = ((120, 224), (240, 160), (MOST, 112))  # images up to so many: px of each
TRAIN_SIDE = 96


def gallery(
    runs: Sequence[RunFiles], shown: Sequence[Predictions], images: Images | None, suspects: Sequence[Suspect],
    copies: Sequence[Copy],
) -> dict[str, Any]:  # fmt: skip
    """What the page's script is given of the images.

    Args:
        runs: of the same images.
        shown: the predictions of each on them.
        images: of the first run; None where it left no features.
        suspects, copies: of its images.

    Returns:
        `items`, each with path, split, label (index), guesses (per run the likeliest classes with their probability),
        near (row, cosine), suspect (class, its probability, the label's) and copies (rows); `others`, path and label
        of further rows; `pictures` by row; `maps`, the last layer's attention of the source and of each run.
    """
    row_of = {} if images is None else _rows(images)
    chosen = _chosen(shown)
    items = [_item(shown, i, row_of.get((shown[0].split, shown[0].paths[i]))) for i in chosen]
    there = {item["row"] for item in items}
    for row in dict.fromkeys([*(s.row for s in suspects), *(row for c in copies for row in c[:2])]):
        if row not in there and images is not None:
            of = images.features
            path, split, label = str(of["path"][row]), str(of["split"][row]), int(of["label"][row])
            place = shown[0].paths.index(path) if split == shown[0].split else None
            items.append(
                {"row": row, "path": path, "split": split, "label": label, "guesses": []}
                if place is None
                else _item(shown, place, row)
            )
    if images is None:
        return {"items": items, "others": {}, "pictures": {}, "maps": None}
    by_row = {item["row"]: item for item in items}
    for s in suspects:
        by_row[s.row]["suspect"] = [s.guess, round(s.guess_probability, 4), round(s.label_probability, 4)]
    for c in copies:
        for row, other in ((c.train, c.other), (c.other, c.train)):
            by_row[row].setdefault("copies", []).append(other)
    wanted = np.array([item["row"] for item in items if not _right(item) or "suspect" in item], int)
    train = np.nonzero(images.features["split"] == "train")[0]
    if len(wanted) and len(train):
        for row, near, cosines in zip(wanted.tolist(), *images.nearest(wanted, train, NEAREST), strict=True):
            by_row[row]["near"] = [[int(n), round(float(c), 3)] for n, c in zip(near, cosines, strict=True)]
    others = sorted({row for item in items for row, _ in item.get("near", [])} - by_row.keys())
    side = next(px for most, px in SIDES if len(items) <= most or most == MOST)
    pictures = {row: embedded(image, side) for row, image in runs[0].pictures(list(by_row)).items()}
    pictures |= {row: embedded(image, TRAIN_SIDE) for row, image in runs[0].pictures(others).items()}
    of = images.features
    return {
        "items": items,
        "others": {row: [str(of["path"][row]), int(of["label"][row])] for row in others},
        "pictures": pictures,
        "maps": _maps(runs, [item["row"] for item in items]),
    }


def _rows(images: Images) -> dict[tuple[str, str], int]:
    split, path = images.features["split"].tolist(), images.features["path"].tolist()
    return {key: row for row, key in enumerate(zip(split, path, strict=True))}


def _chosen(shown: Sequence[Predictions]) -> list[int]:
    """The images of a page: mistakes of any run, the most confident first, then the others, as many as it takes."""
    wrong = np.any([~p.right for p in shown], axis=0)
    confidence = np.max([np.where(p.right, 0, p.confidence) for p in shown], axis=0)
    right = np.nonzero(~wrong)[0]
    left = max(0, MOST - int(wrong.sum()))
    spread = right[np.linspace(0, len(right) - 1, min(left, len(right))).round().astype(int)]
    return [*np.argsort(-confidence, kind="stable")[: min(MOST, int(wrong.sum()))].tolist(), *spread.tolist()]


def _item(shown: Sequence[Predictions], i: int, row: int | None) -> dict[str, Any]:
    best = [np.argsort(-p.probabilities[i], kind="stable")[:TOP].tolist() for p in shown]
    return {
        "row": -1 - i if row is None else row,
        "path": shown[0].paths[i],
        "split": shown[0].split,
        "label": int(shown[0].labels[i]),
        "guesses": [
            [[c, round(float(p.probabilities[i, c]), 4)] for c in classes]
            for p, classes in zip(shown, best, strict=True)
        ],
    }


def _right(item: dict[str, Any]) -> bool:
    return all(guess[0][0] == item["label"] for guess in item["guesses"])


def _maps(runs: Sequence[RunFiles], rows: Sequence[int]) -> dict[str, Any] | None:
    """Of the items whose last layer's attention is known: tile by row, and a sheet of tiles for the source and each
    run."""
    known = [run.attention for run in runs]
    if not all(known):
        return None
    place = {int(row): i for i, row in enumerate(known[0]["rows"])}
    tiles = [row for row in rows if row in place]
    if not tiles or any(a["target_mean"].shape != known[0]["target_mean"].shape for a in known):
        return None
    index, columns = [place[row] for row in tiles], 25
    sheets = []
    for maps in (known[0]["source_mean"], *(a["target_mean"] for a in known)):
        some = maps[index]
        some = np.concatenate([some, np.zeros((-len(some) % columns, *some.shape[1:]), some.dtype)])
        sheets.append(sheet(some.reshape(-1, columns, *some.shape[1:])))
    down, across = known[0]["target_mean"].shape[1:]
    return {"tiles": {row: i for i, row in enumerate(tiles)}, "columns": columns, "down": down, "across": across,
            "sheets": sheets}  # fmt: skip
