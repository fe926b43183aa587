"""What guidance costs on this machine: its training step beside the plain one, and beside how it is done elsewhere.

    found = bench(Bench(source="dinov2.safetensors", image_size=126))

docs/cost.md says what every number means.
"""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from gta.benchmark.growth import growth_with_layers, growth_with_tokens, patches_at, whole_maps
from gta.benchmark.meters import compared, flops, interleaved, peak_bytes, saved_bytes
from gta.benchmark.options import Bench
from gta.benchmark.pipeline import pipeline
from gta.benchmark.rows import (
    COUNTED,
    ROWS,
    Row,
    backward,
    forward_pass,
    penalty_of,
    rows_flops,
    unfused_rows,
)
from gta.benchmark.setting import Setting, described, head_width
from gta.vit.attention_logits import AttentionLogits
from gta.vit.capture import run_and_capture
from gta.vit.structure import vit_info


def bench(options: Bench, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure; seconds to minutes.

    Args:
        options: what.
        say: told what is being done.

    Returns:
        The content of bench.json: `setting`, `steps`, `pipeline`, `whole_maps` and `growth`, with all times as taken.

    Raises:
        GtaError: a source or an option that cannot be used.
    """
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    setting = Setting.of(options)
    patches_at(setting, options.full_size)  # refuses before minutes are spent
    say(f"training steps, {options.rounds} rounds …")
    steps = training_steps(setting, options.rounds)
    say(f"whole maps, {options.full_size} px …")
    say("the loop around the step …")
    around = pipeline(setting, options.rounds)
    maps = whole_maps(setting, options.full_size, options.full_batch, options.rounds)
    say("growth with layers and with tokens …")
    grown = {
        "layers": growth_with_layers(setting, options.rounds),
        "tokens": growth_with_tokens(setting, options),
    }
    return {
        "setting": {**described(setting, options), "load_before": busy},
        "steps": steps,
        "pipeline": around,
        "whole_maps": maps,
        "growth": grown,
    }


# --- training steps ---------------------------------------------------------------------------------------


def training_steps(setting: Setting, rounds: int) -> dict[str, Any]:
    """Time, memory and FLOPs of every row's step (forward, backward, AdamW), and the floor below which none can be."""
    rows = _rows(setting)
    few = setting.part(COUNTED)
    fewer = _rows(few)
    truth = _reference(few)
    found: dict[str, dict[str, Any]] = {}
    exact = replace(few, low=False)
    for name, row in fewer.items():  # before any step is taken
        off = {}
        for how, there in {"float32": exact, **({"bf16": few} if setting.low else {})}.items() if row.same else ():
            with there.autocast():
                off[how] = abs(float(row.forward()[1].detach()) - truth) / truth
        counted = flops(partial(backward, row, few)) / (row.steps * COUNTED)
        found[name] = {"says": row.says, "against": row.against, "flops_per_image": counted, "penalty_off": off}
    plain = found["plain"]["flops_per_image"]

    # a learning rate of 0 takes as long as any, and leaves all rows the same models to the last round
    optimizers = {id(row.model): torch.optim.AdamW(row.model.parameters(), lr=0.0) for row in rows.values()}
    works = {name: partial(_step, row, optimizers[id(row.model)], setting) for name, row in rows.items()}
    seconds = interleaved(works, rounds, setting.device)
    for name, row in rows.items():
        own = [s / row.steps for s in seconds[name]]
        other = [s / rows[row.against].steps for s in seconds[row.against]]
        line = found[name]
        line |= {"seconds": own, "median_seconds": median(own), **compared(own, other)}
        line["images_per_second"] = len(setting.images) / line["median_seconds"]
        line["flops_ratio"] = line["flops_per_image"] / found[row.against]["flops_per_image"]
        line["over_flops"] = line["ratio"] / line["flops_ratio"]
        line["saved_bytes"] = saved_bytes(partial(forward_pass, row, setting), row.model.parameters())
        line["peak_bytes"] = peak_bytes(works[name], setting.device)
        line["source_bytes"] = sum(_bytes(model) for model in row.beside) + row.copies()
    return {"rows": found, "floor": _floor(setting, plain, found["gta"]["ratio"])}


def _rows(setting: Setting) -> dict[str, Row]:
    made = {name: make(setting) for name, make in ROWS.items()}
    return {name: row for name, row in made.items() if row is not None}


def _step(row: Row, optimizer: torch.optim.Optimizer, setting: Setting) -> None:
    for _ in range(row.steps):
        forward_pass(row, setting).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def _reference(setting: Setting) -> float:
    """The penalty in float64, from maps multiplied out."""
    rows = []
    with torch.no_grad():
        for model in (setting.target, setting.source):
            exact = copy.deepcopy(model).double()
            rows.append(unfused_rows(exact, setting.images.double(), setting.layers)[1])
    return float(penalty_of(*rows))


def _floor(setting: Setting, plain: float, measured: float) -> dict[str, float]:
    """FLOPs per image that a guide must make whose source sees the images in the step, as a ratio to the plain step.

    Those of the plain step; of the source up to the last guided layer, and in it no more than q of [cls] and k of the
    patches; of the rows of both, and backward of the target's. At equal speed per FLOP no such step is faster; a source
    in lower precision or rows that are reused can be.
    """
    few, vit = setting.part(1), vit_info(setting.source)
    reading: list[Any] = []

    def read() -> None:
        reading.extend(*run_and_capture(setting.source, few.images, [AttentionLogits(vit, setting.layers)]))

    until = flops(read)
    heads, patches = reading[-1].shape[1:]
    width = int(setting.source.embed_dim)  # type: ignore[arg-type]
    inner = heads * head_width(setting.source)
    unneeded = 2 * width * inner * (3 * (patches + vit.prefix_tokens) - patches - 1)  # of the last q, k and v
    rows = rows_flops(setting.source, patches, len(setting.layers))
    ratio = (plain + until - unneeded + rows) / plain
    return {
        "plain_flops": plain,
        "source_flops": until - unneeded,
        "rows_flops": rows,
        "ratio": ratio,
        "measured": measured,
        "over_floor": measured / ratio,
    }
