"""What the guide costs: the step of `gta` as a ratio to the step of `plain`, measured in turn in one run.

python benchmarks/step_cost.py --source FILE --image_size 126
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch import Tensor, nn

import gta
from gta.methods.plain import Plain
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
    steps = {
        "plain": step_of(Plain(gta.new_target(frozen, 10)), images, labels, precision),
        "gta": step_of(gta.guide(gta.new_target(frozen, 10), frozen, layers=layers), images, labels, precision),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            spent = clock(step, device)
            if turn:  # the first turn warms up
                seconds[name].append(spent)
    for name, values in seconds.items():
        print(f"{name:>5}: {median(values) * 1e3:8.1f} ms a step ({min(values) * 1e3:.1f} to {max(values) * 1e3:.1f})")
    ratios = [g / p for g, p in zip(seconds["gta"], seconds["plain"], strict=True)]
    print(
        f"gta / plain: {median(ratios):.3f} (median of {rounds} pairs, {min(ratios):.3f} to {max(ratios):.3f}); "
        f"{image_size} px, batch {batch_size}, {resolve_precision(precision)}, {device}, torch {torch.__version__}"
    )


def step_of(method: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Callable[[], None]:
    method.to(images.device).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-5)
    low = "bf16" in resolve_precision(precision)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16) if low else nullcontext():
            logits, penalty = method(images)
            loss = F.cross_entropy(logits.float(), labels) + penalty
        loss.backward()
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
