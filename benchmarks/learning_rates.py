"""Plain and guided fine-tuning over learning rates, weights of the guide and seeds, as one table.

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

from gta.studies.tables import append_csv, read_csv
from gta.training.fit import train
from gta.training.options import TrainOptions

SETTING = ("method", "lr", "weight", "seed")
MEASURED = ("val_top1", "test_top1", "object_mass", "jaccard", "drift", "wall_seconds")
COLUMNS = (
    *SETTING, *MEASURED, "source_object_mass", "source_jaccard", "epochs", "batch_size", "image_size",
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
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    precision: Literal["auto", "32", "bf16", "16"] = "auto",
) -> None:
    """Run what is missing of the grid, seeds outermost, and print mean [lowest, highest] over seeds."""
    table = Path(results)
    settings = [(m, w) for m in methods for w in (weights if "gta" in m.split("+") else [None])]
    for seed, lr, (method, weight) in product(seeds, lrs, settings):
        name = f"{method}-lr{lr:g}" + ("" if weight is None else f"-weight{weight}")
        setting = (method, lr, "" if weight is None else str(weight), seed)
        if any((r["method"], float(r["lr"]), r["weight"], int(r["seed"])) == setting for r in read_csv(table)):
            continue
        options = TrainOptions(
            data=data, source=source, out=str(Path(out) / f"{name}-seed{seed}"), method=method, lr=lr,
            seed=seed, image_size=image_size, epochs=epochs, weight=10.0 if weight is None else weight,
            precision=precision, val_every=epochs, devices=1,
        )  # fmt: skip
        result = train(options, resume=True)
        assert result is not None  # one device
        append_csv(table, COLUMNS, result)
        print(f"# {name} seed {seed}: {result['test_top1']:.1f} in {result['wall_seconds']:.0f} s", flush=True)

    groups: dict[tuple[float, str, float, str], list[dict[str, str]]] = {}
    for line in read_csv(table):
        size = float(line["weight"].replace("auto", "inf") or 0)
        groups.setdefault((-float(line["lr"]), line["method"], size, line["weight"]), []).append(line)
    print("| method | lr | weight | seeds | " + " | ".join(MEASURED) + " |")
    print("|---|---|---|---|" + "---|" * len(MEASURED))
    for (lr, method, _, weight), lines in sorted(groups.items()):
        cells = [_cell([line[c] for line in lines]) for c in MEASURED]
        print(f"| {method} | {-lr:g} | {weight or '–'} | {len(lines)} | " + " | ".join(cells) + " |")


def _cell(texts: list[str]) -> str:
    values = [float(text) for text in texts if text]
    if not values:
        return "–"
    digits = 0 if max(values) > 200 else 1 if max(values) > 10 else 2
    return f"{mean(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
