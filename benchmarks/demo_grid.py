"""How the demo's learning rates and epochs were chosen: a grid of both methods on worlds that the demo does not show.

    python benchmarks/demo_grid.py --out runs/demo-grid --results benchmarks/results/demo_grid.csv

Every finished run becomes a line of --results, and is not run again. With --seeds [] nothing is run and the table is
printed. Validation chooses; test accuracy stands beside it to be looked at, and chooses nothing.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import mean

from jsonargparse import auto_cli

from gta.demo.run import CHOSEN, COMMON, WORLD
from gta.tables import append_csv, markdown, read_csv
from gta.training.fit import train
from gta.worlds.folder import write_world

COLUMNS = ("method", "lr", "epochs", "seed", "val_top1", "test_top1", "object_mass", "jaccard", "drift", "wall_seconds",
           "weight", "precision", "data_digest", "versions")  # fmt: skip


def main(
    out: str,
    results: str,
    lrs: list[float] = [3e-5, 1e-4, 3e-4, 1e-3, 3e-3],  # noqa: B006
    epochs: list[int] = [15, 30],  # noqa: B006
    seeds: list[int] = [100, 101],  # noqa: B006
) -> None:
    """Run what is missing of the grid and print means over seeds, each method's choice marked."""
    table = Path(results)
    for seed, length, lr, method in product(seeds, epochs, lrs, CHOSEN):
        if any(_setting(line) == (method, lr, length) and int(line["seed"]) == seed for line in read_csv(table)):
            continue
        data = Path(out) / f"world{seed}"
        if not data.exists():
            write_world(replace(WORLD, out=str(data), seed=seed))
        run = str(Path(out) / f"{method}-{lr:g}-{length}-seed{seed}")
        choice = {**CHOSEN[method], "lr": lr, "epochs": length}
        result = train(replace(COMMON, data=str(data), out=run, seed=seed, **choice), resume=True)
        assert result is not None  # one device
        append_csv(table, COLUMNS, result)

    groups: dict[tuple[str, float, int], list[dict[str, str]]] = {}
    for line in read_csv(table):
        groups.setdefault(_setting(line), []).append(line)
    means = {k: {c: mean(float(line[c]) for line in v) for c in COLUMNS[4:10]} for k, v in groups.items()}
    best = {name: max((k for k in means if k[0] == name), key=lambda k: means[k]["val_top1"]) for name, *_ in means}
    rows = [
        {"method": method, "lr": f"{lr:g}", "epochs": length, "worlds": len(groups[method, lr, length]),
         "val": f"{m['val_top1']:.1f}", "test": f"{m['test_top1']:.1f}", "object mass": f"{m['object_mass']:.3f}",
         "Jaccard": f"{m['jaccard']:.3f}", "drift": f"{m['drift']:.3f}", "seconds": f"{m['wall_seconds']:.0f}",
         "": "**chosen**" if best[method] == (method, lr, length) else ""}
        for (method, lr, length), m in sorted(means.items())
    ]  # fmt: skip
    print(markdown(rows), end="")


def _setting(line: dict[str, str]) -> tuple[str, float, int]:
    return line["method"], float(line["lr"]), int(line["epochs"])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
