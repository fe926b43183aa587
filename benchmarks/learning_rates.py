"""Plain and guided fine-tuning over learning rates, weights, guides, distances and seeds, as one table.

    python benchmarks/learning_rates.py --data DIR --source FILE --image_size 126 \
        --out runs/lr --results benchmarks/results/garden.csv

Every finished run becomes a line of --results; runs that have one are not run again, so that an interrupted grid goes
on where it was, also on another machine. With --seeds [] nothing is run and the table is printed.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import mean
from typing import Literal

from jsonargparse import auto_cli

from gta.tables import append_csv, markdown, read_csv
from gta.training.fit import train
from gta.training.options import TrainOptions

SETTING = ("method", "lr", "weight", "guide", "distance")
MEASURED = ("val_top1", "test_top1", "object_mass", "jaccard", "drift", "wall_seconds")
COLUMNS = (
    *SETTING, "seed", *MEASURED, "source_object_mass", "source_jaccard", "epochs", "batch_size", "image_size",
    "precision", "device", "data_digest", "versions",
)  # fmt: skip


def main(
    data: str,
    source: str,
    out: str,
    results: str,
    image_size: int = 224,
    epochs: int = 15,
    weights: list[float | Literal["auto"]] = [10.0],  # noqa: B006
    methods: list[str] = ["plain", "gta"],  # noqa: B006
    lrs: list[float] = [1e-4, 3e-5],  # noqa: B006
    guides: list[str] = ["logits"],  # noqa: B006
    distances: list[str] = ["l2"],  # noqa: B006
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    precision: Literal["auto", "32", "bf16", "16"] = "auto",
) -> None:
    """Run what is missing of the grid, seeds outermost, and print mean [lowest, highest] over seeds."""
    table = Path(results)
    done = [tuple(line[c] for c in (*SETTING, "seed")) for line in read_csv(table)]
    for seed, lr, method in product(seeds, lrs, methods):
        guided = "gta" in method.split("+")
        for weight, guide, distance in product(weights, guides, distances) if guided else [(None, None, None)]:
            given = {"weight": weight, "guide": guide, "distance": distance} if guided else {}
            setting = (method, str(lr), *("" if v is None else str(v) for v in (weight, guide, distance)), str(seed))
            if setting in done:
                continue
            name = "-".join(part for part in setting if part)
            options = TrainOptions(
                data=data, source=source, out=str(Path(out) / name), method=method, lr=lr, seed=seed,
                image_size=image_size, epochs=epochs, precision=precision, val_every=epochs, devices=1, **given,
            )  # fmt: skip
            result = train(options, resume=True)
            assert result is not None  # one device
            append_csv(table, COLUMNS, result)
            print(f"# {name}: {result['test_top1']:.1f} in {result['wall_seconds']:.0f} s", flush=True)

    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for line in read_csv(table):
        groups.setdefault(tuple(line[c] for c in SETTING), []).append(line)
    varied = [i for i in range(len(SETTING)) if i < 3 or len({setting[i] for setting in groups} - {""}) > 1]
    rows = [
        {SETTING[i]: setting[i] or None for i in varied}
        | {"seeds": len(lines), **{c: _cell([float(line[c]) for line in lines if line[c]]) for c in MEASURED}}
        for setting, lines in sorted(groups.items(), key=_rank)
    ]
    print(markdown(rows), end="")


def _rank(group: tuple[tuple[str, ...], list[dict[str, str]]]) -> tuple[float, str, float, tuple[str, ...]]:
    method, lr, weight, *others = group[0]
    return -float(lr), method, float(weight.replace("auto", "inf") or 0), tuple(others)


def _cell(values: list[float]) -> str | None:
    if not values:
        return None
    digits = 0 if max(values) > 200 else 1 if max(values) > 10 else 2
    return f"{mean(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
