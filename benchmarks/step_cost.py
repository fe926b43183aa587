"""What the guide costs: the step of `gta` as a ratio to the step of `plain`, measured in turn in one run.

And what `--weight auto` adds to it: the same as a ratio to the step of `gta` with a weight that is given.

python benchmarks/step_cost.py --source FILE --image_size 126
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import torch
from jsonargparse import auto_cli
from torch import Tensor

import gta
from gta.methods.gta import GTA
from gta.methods.plain import Plain
from gta.methods.recipe import Recipe
from gta.training.fit import resolve_precision


def main(
    source: str,
    image_size: int = 224,
    batch_size: int = 32,
    rounds: int = 7,
    layers: list[int] | str = "all",
    precision: str = "auto",
) -> None:
    """Time plain and gta steps alternately (forward, backward, AdamW) and print medians and their ratio."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    frozen = gta.load_source(source, image_size=image_size)
    labels = torch.randint(0, 10, (batch_size,), device=device)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    parts = {"plain": Plain(), "gta": GTA(layers=layers), "auto": GTA(layers=layers, weight="auto")}
    recipes = {name: Recipe(gta.new_target(frozen, 10), frozen, [part]) for name, part in parts.items()}
    steps = {name: step_of(recipe, images, labels, precision) for name, recipe in recipes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            spent = clock(step, device)
            if turn:  # the first turn warms up
                seconds[name].append(spent)
    for name, values in seconds.items():
        print(f"{name:>5}: {median(values) * 1e3:8.1f} ms a step ({min(values) * 1e3:.1f} to {max(values) * 1e3:.1f})")
    for one, other in (("gta", "plain"), ("auto", "gta")):
        ratios = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
        print(
            f"{one} / {other}: {median(ratios):.3f} (median of {rounds} pairs, {min(ratios):.3f} to {max(ratios):.3f});"
            f" {image_size} px, batch {batch_size}, {resolve_precision(precision)}, {device}, torch {torch.__version__}"
        )


def step_of(method: Recipe, images: Tensor, labels: Tensor, precision: str) -> Callable[[], None]:
    method.to(images.device).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-5)
    low = "bf16" in resolve_precision(precision)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16) if low else nullcontext():
            done = method(images, labels)
        (done.loss + done.penalty).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def clock(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
