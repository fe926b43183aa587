"""What guidance costs on this machine: its training step beside the plain one, and beside how it is done elsewhere.

    found = bench(Bench(source="dinov2.safetensors", image_size=126))

docs/cost.md says what every number means.
"""

import os
from collections.abc import Callable
from typing import Any

from gta.benchmark.growth import by_layers, by_tokens
from gta.benchmark.loop import around_the_step
from gta.benchmark.options import Bench
from gta.benchmark.rows import BOUNDED
from gta.benchmark.setting import described, make_setting
from gta.benchmark.steps import training_steps
from gta.benchmark.whole_maps import patches_at, whole_maps


def bench(options: Bench, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure; seconds to minutes.

    Args:
        options: what.
        say: told what is being done.

    Returns:
        The content of bench.json: `setting`, and by part (steps, loop, whole_maps; layers and tokens unless it is to be
        quick) its `rows`, with all times as taken, and the `notes` under its table.

    Raises:
        GtaError: a source or an option that cannot be used.
    """
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    setting, rounds = make_setting(options), options.rounds
    patches_at(setting, options.full_size)  # refuses before minutes are spent
    found: dict[str, Any] = {"setting": {**described(setting, options), "load_before": busy}}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "steps": lambda: training_steps(setting, rounds, BOUNDED if options.quick else None),
        "loop": lambda: around_the_step(setting, rounds),
        "whole_maps": lambda: whole_maps(setting, options.full_size, options.full_batch, rounds),
    }
    if not options.quick:
        parts |= {"layers": lambda: by_layers(setting, rounds), "tokens": lambda: by_tokens(setting, options)}
    for part, measure in parts.items():
        say(f"{part} …")
        found[part] = measure()
    return found
