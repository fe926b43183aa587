"""How far a lower precision of the source moves its rows and the penalty, and what it takes.

    python benchmarks/source_precision.py --source FILE --run RUN --data DIR --image_size 126

RUN is a run of `gta train` from that source, whose drift is that of the penalties. `feed-forward bf16` is what float32
training uses (`gta.acceleration.source_pass`). The last line is of both models as bf16 training computes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jsonargparse import auto_cli

import gta
from gta.acceleration.attention import QuickAttention
from gta.acceleration.source_pass import AdaptivePass
from gta.data.reading import read_photos
from gta.data.transforms import TrainViews, normalised
from gta.sources.info import source_info
from gta.training.run_folder import load_weights
from gta.vit.capture import run_and_capture


def main(source: str, run: str, data: str, image_size: int = 224, batch_size: int = 32, rounds: int = 7) -> None:
    """Print, way by way: milliseconds, mean squared error of the rows, and relative error of the penalty."""
    frozen = gta.load_source(source, image_size)
    target, info = load_weights(Path(run))[0], source_info(frozen)
    views = TrainViews(read_photos(data).train, image_size, seed=0)
    every = max(1, len(views) // batch_size)
    images = normalised(torch.stack([views[i * every][0] for i in range(batch_size)]), info.mean, info.std)
    guidance = gta.guide(target, frozen).guidance
    precision = AdaptivePass(frozen, guidance.source)
    compiled = AdaptivePass(frozen, guidance.source, compiled=True)

    def read(images: torch.Tensor) -> list[Any]:
        (rows,) = run_and_capture(frozen, images, [guidance.capture(guidance.source)])
        return list(rows)

    def under(dtype: torch.dtype, precision: AdaptivePass) -> list[Any]:
        with torch.autocast("cpu", dtype):
            precision.step = 1  # no check
            return precision.run(read, images)

    def forward_low(precision: AdaptivePass) -> list[Any]:
        precision.lowered = True
        precision.step = 1  # no check
        return precision.run(read, images)

    ways: dict[str, Callable[[], list[Any]]] = {
        "float32": lambda: read(images),
        "feed-forward bf16": lambda: forward_low(precision),
        "feed-forward bf16, compiled": lambda: forward_low(compiled),
        "bf16 autocast": lambda: under(torch.bfloat16, precision),
        "bf16 autocast, compiled": lambda: under(torch.bfloat16, compiled),
        "fp16 autocast": lambda: under(torch.float16, precision),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    rows: dict[str, list[Any]] = {}
    with torch.no_grad():
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                rows[name] = way()
                seconds[name].append(time.perf_counter() - began)
        (tuned,) = run_and_capture(target.eval(), images, [guidance.capture(guidance.target)])
        exact = float(guidance.distances(tuned, rows["float32"]).mean())
        print(f"drift on these images: {exact:.3g}")
        for name, found in rows.items():
            error = float(guidance.distances(found, rows["float32"]).mean())
            off = float(guidance.distances(tuned, found).mean()) / exact - 1
            print(f"{name:>28}: {median(seconds[name]) * 1e3:6.0f} ms, rows {error:.1e}, penalty {off:+.2%}")
        attention = QuickAttention().as_when_trained()
        with torch.autocast("cpu", torch.bfloat16), attention:
            (low,) = run_and_capture(target, images, [guidance.capture(guidance.target)])
        off = float(guidance.distances(low, rows["bf16 autocast"]).mean()) / exact - 1
        print(f"both models in bf16, attention {attention.names()}: penalty {off:+.2%}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
