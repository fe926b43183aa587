"""Plain and guided fine-tuning over learning rates and seeds, as one table.

    python benchmarks/learning_rates.py --data DIR --source FILE --image_size 126 \
        --out runs/lr --results benchmarks/results/garden.csv

Every finished run becomes a line of --results; runs that have one are not run again, so that an interrupted grid goes
on where it was, also on another machine. With --seeds [] nothing is run and the table is printed. Another --weight of
the guide needs --results of its own.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import mean

from jsonargparse import auto_cli

from gta.studies.tables import append_csv, read_csv
from gta.training.fit import train
from gta.training.options import TrainOptions

SETTING = ("method", "lr", "seed")
MEASURED = ("val_top1", "test_top1", "object_mass", "jaccard", "drift", "wall_seconds")
COLUMNS = (
    *SETTING, *MEASURED, "source_object_mass", "source_jaccard", "weight", "epochs", "batch_size", "image_size",
    "precision", "device", "data_digest", "versions",
)  # fmt: skip


def main(
    data: str,
    source: str,
    out: str,
    results: str,
    image_size: int = 224,
    epochs: int = 15,
    weight: float = 10.0,
    methods: list[str] = ["plain", "gta"],  # noqa: B006
    lrs: list[float] = [1e-4, 3e-5],  # noqa: B006
    seeds: list[int] = [0, 1, 2],  # noqa: B006
) -> None:
    """Run what is missing of the grid, seeds outermost, and print mean [lowest, highest] over seeds."""
    table = Path(results)
    for seed, lr, method in product(seeds, lrs, methods):
        if any((r["method"], float(r["lr"]), int(r["seed"])) == (method, lr, seed) for r in read_csv(table)):
            continue
        options = TrainOptions(
            data=data, source=source, out=str(Path(out) / f"{method}-lr{lr:g}-seed{seed}"), method=method, lr=lr,
            seed=seed, image_size=image_size, epochs=epochs, weight=weight, val_every=epochs, devices=1,
        )  # fmt: skip
        result = train(options, resume=True)
        assert result is not None  # one device
        append_csv(table, COLUMNS, result)
        print(f"# {method} {lr:g} seed {seed}: {result['test_top1']:.1f} in {result['wall_seconds']:.0f} s", flush=True)

    groups: dict[tuple[float, str], list[dict[str, str]]] = {}
    for line in read_csv(table):
        groups.setdefault((-float(line["lr"]), line["method"]), []).append(line)
    print("| method | lr | seeds | " + " | ".join(MEASURED) + " |")
    print("|---|---|---|" + "---|" * len(MEASURED))
    for (lr, method), lines in sorted(groups.items()):
        cells = [_cell([line[c] for line in lines]) for c in MEASURED]
        print(f"| {method} | {-lr:g} | {len(lines)} | " + " | ".join(cells) + " |")


def _cell(texts: list[str]) -> str:
    values = [float(text) for text in texts if text]
    if not values:
        return "–"
    digits = 0 if max(values) > 200 else 1 if max(values) > 10 else 2
    return f"{mean(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
