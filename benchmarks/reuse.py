"""What reused rows cost in accuracy: fresh views each epoch, and a fixed number of them with the source's rows stored.

    python benchmarks/reuse.py --data DIR --source FILE --image_size 126 --out runs/reuse \
        --results benchmarks/results/reuse.csv

`shared`: all runs see the same views, as `gta train --reuse` does unless told otherwise; `own`: each seed its own
(--views-seed null). Every finished run becomes a line of --results; runs that have one are not run again. With
--seeds [] nothing is run and the table is printed.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from jsonargparse import auto_cli

from gta.studies.statistics import Paired, paired
from gta.tables import append_csv, markdown, read_csv
from gta.training.fit import train
from gta.training.options import TrainOptions

WAYS: dict[str, dict[str, Any]] = {
    "fresh": {},
    "shared": {"reuse": True},
    "own": {"reuse": True, "views_seed": None},
}
Lines = dict[str, dict[str, str]]  # by seed
COLUMNS = (
    "way", "seed", "views", "views_seed", "val_top1", "test_top1", "object_mass", "jaccard", "drift", "penalty",
    "train_seconds", "wall_seconds", "data_wait", "method", "lr", "weight", "epochs", "batch_size", "image_size",
    "precision", "device", "data_digest", "versions",
)  # fmt: skip


def main(
    data: str,
    source: str,
    out: str,
    results: str,
    image_size: int = 224,
    epochs: int = 15,
    views: int = 8,
    seeds: list[int] = [0, 1, 2, 3, 4, 5],  # noqa: B006
) -> None:
    """Run what is missing, seeds outermost, and print the table."""
    table = Path(results)
    for seed, way in product(seeds, WAYS):
        if (way, str(seed)) in {(line["way"], line["seed"]) for line in read_csv(table)}:
            continue
        options = TrainOptions(
            data=data, source=source, out=str(Path(out) / f"{way}-{seed}"), seed=seed, epochs=epochs,
            image_size=image_size, val_every=epochs, views=views, reuse_dir=str(Path(out) / "rows"), devices=1,
            **WAYS[way],
        )  # fmt: skip
        result = train(options, resume=True)
        assert result is not None  # one device
        append_csv(table, COLUMNS, {"way": way, **result})
        print(f"# {way} {seed}: {result['test_top1']:.1f} in {result['wall_seconds']:.0f} s", flush=True)

    groups: dict[str, Lines] = {way: {} for way in WAYS}
    for line in read_csv(table):
        groups[line["way"]][line["seed"]] = line
    fresh = groups["fresh"]
    print(markdown([_row(way, lines, {} if way == "fresh" else fresh) for way, lines in groups.items()]), end="")


def _row(way: str, lines: Lines, fresh: Lines) -> dict[str, Any]:
    counts = {line["views"] for line in lines.values()} - {""}
    row: dict[str, Any] = {"views": " ".join((*counts, way)), "seeds": len(lines)}
    for name in ("val", "test"):
        top1 = {seed: float(line[f"{name}_top1"]) for seed, line in lines.items()}
        both = [seed for seed in lines if seed in fresh]
        less = paired([top1[s] for s in both], [float(fresh[s][f"{name}_top1"]) for s in both]) if both else None
        row[name] = f"{fmean(top1.values()):.1f}"
        row[f"{name} − fresh"] = None if less is None else _shown(less)
    row["drift"] = f"{fmean(float(line['drift']) for line in lines.values()):.3f}"
    row["object mass"] = f"{fmean(float(line['object_mass']) for line in lines.values()):.2f}"
    return row


def _shown(less: Paired) -> str:
    interval = "" if less.low is None else f" [{less.low:+.1f}, {less.high:+.1f}]"
    return f"{less.difference:+.1f}{interval}"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
