"""What gta predict reaches of what decoding and the bare model allow: benchmarks/predict.py RUN PHOTOS [COUNT].

Decoding alone, on all cores; the bare model alone, on tensors that are there, in batches as gta predict has them; and
gta predict. On the CPU both share the cores, so the least time is their sum; on a GPU it is the longer of the two.
Each is measured three times in turn; the median counts.
"""

import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import torch

import gta
from gta.data.images import on_all_cores, open_rgb
from gta.devices import device_name
from gta.training.predict import BATCH, predict
from gta.training.trained import Trained


def main(run: str, photos: str, count: int = 1000, rounds: int = 3) -> float:
    trained = Trained.load(Path(run))
    paths = list(islice(cycle(gta.image_paths(photos)), count))
    pixels = torch.stack([trained.sees(open_rgb(path)) for path in paths[:BATCH]])
    batches = -(-count // BATCH)
    ways: dict[str, Callable[[], object]] = {
        "decoding": lambda: on_all_cores(lambda path: trained.sees(open_rgb(path)).shape, paths),
        "model": lambda: [trained.probabilities(pixels) for _ in range(batches)],
        "predict": lambda: sum(1 for _ in predict(trained, paths)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    trained.probabilities(pixels)
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    took = {name: median(of) for name, of in seconds.items()}
    on_cpu = trained.device.type == "cpu"
    least = took["decoding"] + took["model"] if on_cpu else max(took["decoding"], took["model"])
    for name, of in took.items():
        print(f"{name}: {count / of:.0f} images/s")
    print(f"{device_name(trained.device)}: predict reaches {least / took['predict']:.2f} of what both allow")
    return least / took["predict"]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]))
