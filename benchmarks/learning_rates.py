"""Plain and guided fine-tuning over learning rates and seeds, as one table.

    python benchmarks/learning_rates.py --data DIR --source FILE --image_size 126 --out runs/lr

Runs that are already in --out are not run again; the table is printed from their results.json.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from jsonargparse import auto_cli

from gta.training.fit import train
from gta.training.options import TrainOptions


def main(
    data: str,
    source: str,
    out: str,
    image_size: int = 224,
    epochs: int = 15,
    lrs: list[float] = [1e-4, 3e-5],  # noqa: B006
    seeds: list[int] = [0, 1, 2],  # noqa: B006
) -> None:
    """Run the grid, seeds outermost, and print mean [lowest, highest] over seeds."""
    results: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for seed, lr, method in product(seeds, lrs, ("plain", "gta")):
        folder = Path(out) / f"{method}-lr{lr:g}-seed{seed}"
        options = TrainOptions(
            data=data, source=source, out=str(folder), method=method, lr=lr, seed=seed,
            image_size=image_size, epochs=epochs, val_every=epochs, devices=1,
        )  # fmt: skip
        result = train(options, resume=True)
        if result is not None:
            results.setdefault((method, lr), []).append(result)
            print(
                f"# {folder.name}: test {result['test_top1']:.1f} in {result['wall_seconds']:.0f} s",
                flush=True,
            )
    columns = ("val_top1", "test_top1", "object_mass", "jaccard", "drift", "wall_seconds")
    print("| method | lr | seeds | " + " | ".join(columns) + " |")
    print("|---|---|---|" + "---|" * len(columns))
    for (method, lr), runs in sorted(results.items(), key=lambda item: (-item[0][1], item[0][0])):
        cells = [_cell([run[c] for run in runs]) for c in columns]
        print(f"| {method} | {lr:g} | {len(runs)} | " + " | ".join(cells) + " |")


def _cell(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    digits = 0 if max(known) > 200 else 1 if max(known) > 10 else 2
    return f"{mean(known):.{digits}f} [{min(known):.{digits}f}, {max(known):.{digits}f}]"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
