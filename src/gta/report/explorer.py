"""The attention explorer's data: every layer and head of the source and of each run, over the epochs where kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta.report.pictures import embedded, outline, sheet
from gta.report.run import RunFiles

Array = NDArray[Any]

SIDE = 224  # px of a picture
EPOCHS = 6  # of those kept, evenly spread, the first and the last among them
BYTES = 1_400_000  # for the maps of all images together


def explorer(runs: Sequence[RunFiles]) -> dict[str, Any] | None:
    """What the page's script is given of attention; None where the runs left none, or none of the same images.

    Returns:
        `images` (row, path, label, picture, outline); size in px, layers, heads, down, across; `models`, the source
        and then the runs: name, and a sheet per image of layers × (mean over heads, heads); `epochs` of each run:
        numbers, as many for each and spread over its training, and the sheets by epoch and image; `drift` of each
        run (layers, heads).
    """
    known = [run.attention for run in runs]
    if (
        not all(known)
        or not runs[0].features
        or any(a["source"].shape[1:] != known[0]["source"].shape[1:] for a in known)
    ):
        return None
    first = known[0]
    rows = [int(row) for row in first["explored"] if all(row in a["explored"] for a in known)]
    place = [{int(row): i for i, row in enumerate(a["explored"])} for a in known]
    pictures = runs[0].pictures(rows)
    rows = [row for row in rows if row in pictures]
    if not rows:
        return None
    path, label = runs[0].features["path"], runs[0].features["label"]
    layers, heads, down, across = first["source"].shape[1:]

    steps = min(EPOCHS, *(len(run.epochs) for run in runs))
    numbers = [np.linspace(0, len(run.epochs) - 1, steps).round().astype(int).tolist() for run in runs]
    kept = min(len(run.epochs[0]) for run in runs) if steps else 0
    followed = [row for row in rows if place[0][row] < kept and all(place[0][row] == p[row] for p in place)]
    one = len(sheet(_with_mean(first["target"][:1])[0]))
    room = max(1, BYTES // (one * (1 + len(runs))))
    rows = [*followed, *(row for row in rows if row not in followed)][:room]
    followed = followed[: BYTES // (one * len(runs) * steps)] if steps else []

    models = [("source", first["source"], place[0])]
    models += [(run.name, a["target"], p) for run, a, p in zip(runs, known, place, strict=True)]
    masks = first["masks"]
    return {
        "images": [
            {"row": row, "path": str(path[row]), "label": int(label[row]), "picture": embedded(pictures[row], SIDE, 80),
             "outline": outline(masks[place[0][row]])}
            for row in rows
        ],
        "size": int(masks.shape[1]), "layers": layers, "heads": heads, "down": down, "across": across,
        "models": [
            {"name": name, "sheets": [sheet(_with_mean(maps[[at[row]]])[0]) for row in rows]}
            for name, maps, at in models
        ],
        "epochs": {
            "numbers": [[n + 1 for n in own] for own in numbers] if followed else [],
            "sheets": [
                [[sheet(_with_mean(run.epochs[n][[place[0][row]]])[0]) for row in followed] for n in own]
                for run, own in zip(runs, numbers, strict=True)
            ],
        },
        "drift": [np.round(a["drift"], 5).tolist() for a in known],
    }  # fmt: skip


def _with_mean(maps: Array) -> Array:
    """(n, L, H, down, across) -> (n, L, 1 + H, down, across): first the mean over heads."""
    maps = maps.astype(np.float32)
    return np.concatenate([maps.mean(2, keepdims=True), maps], 2)
