"""Training steps of every row: their time, memory and FLOPs, and the floor below which none can be."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gta.benchmark.meters import compared, flops, interleaved, peak_bytes, saved_bytes
from gta.benchmark.rows import ROWS, Row, penalty_of, unfused, unfused_rows
from gta.benchmark.setting import COUNTED, Setting, rows_flops, shape_of
from gta.vit.attention_logits import AttentionLogits
from gta.vit.capture import run_and_capture
from gta.vit.structure import vit_info


def training_steps(setting: Setting, rounds: int, names: Sequence[str] | None = None) -> dict[str, Any]:
    """By row (of these names), of a step with AdamW: times, FLOPs, memory, and how far its penalty is off."""
    rows = {name: row for name in names or ROWS if (row := ROWS[name](setting)) is not None}
    truth = _reference(setting)
    found = {name: _counted(row, setting, truth) for name, row in rows.items()}  # before any step is taken
    # a learning rate of 0 takes as long as any, and leaves all rows the same models to the last round
    optimizers = {id(row.model): torch.optim.AdamW(row.model.parameters(), lr=0.0) for row in rows.values()}
    works = {name: partial(_step, row, optimizers[id(row.model)], setting) for name, row in rows.items()}
    too_large = [name for name, work in works.items() if not _fits(work)]
    for name in too_large:
        del rows[name], works[name], found[name]
    seconds = interleaved(works, rounds, setting.device)
    for name, row in rows.items():
        line = found[name]
        line |= compared(seconds[name], seconds[row.against])
        line["flops_per_image"] = line["flops_per_image"] or found["gta"]["flops_per_image"]
        line["images_per_second"] = len(setting.images) / line["median_seconds"]
        line["flops_ratio"] = line["flops_per_image"] / found[row.against]["flops_per_image"]
        line["over_flops"] = line["ratio"] / line["flops_ratio"]
        forward = partial(_loss, row, setting, setting.images, setting.labels)
        line["saved_bytes"] = saved_bytes(forward, row.model.parameters())
        line["peak_bytes"] = peak_bytes(works[name], setting.device)
        state = [] if row.beside is None else row.beside.state_dict().values()
        line["source_bytes"] = row.copies() + sum(t.numel() * t.element_size() for t in state)
    floor = _floor(setting, found["plain"]["flops_per_image"])
    note = (
        "Floor of a step in which a source sees the images: {ratio:.3f} of the plain step's FLOPs ({plain_flops:.3g} "
        "per image, of the source {source_flops:.3g}, of the rows {rows_flops:.2g}). "
    ).format(**floor) + f"gta took {found['gta']['ratio'] / floor['ratio']:.3f} times that."
    notes = [note, *(f"{name}: {row.says}" for name, row in rows.items())]
    notes += [f"{name}: left out, it does not fit into the GPU's memory" for name in too_large]
    return {"rows": found, "floor": floor, "notes": notes}


def _counted(row: Row, setting: Setting, truth: float) -> dict[str, Any]:
    """What is no time: FLOPs (None where they cannot be counted), and how far the penalty is from the truth."""
    images, labels = setting.images[:COUNTED], setting.labels[:COUNTED]
    kinds = {"float32": nullcontext} | ({"bf16": setting.autocast} if setting.low else {})
    if row.compiled:  # each kind takes a compilation
        kinds = {how: kind for how, kind in kinds.items() if (how == "bf16") == setting.low}
    off = {}
    for how, kind in kinds.items() if row.same else ():
        with kind():
            off[how] = abs(float(row.forward(images, labels)[1].detach()) - truth) / truth
    counted = None if row.compiled else flops(lambda: _loss(row, setting, images, labels).backward()) / COUNTED
    row.model.zero_grad()
    return {"says": row.says, "against": row.against, "flops_per_image": counted, "penalty_off": off}


def _loss(row: Row, setting: Setting, images: Tensor, labels: Tensor) -> Tensor:
    with setting.autocast():
        return torch.stack(row.forward(images, labels)).sum()


def _step(row: Row, optimizer: torch.optim.Optimizer, setting: Setting) -> None:
    _loss(row, setting, setting.images, setting.labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()


def _fits(work: Callable[[], None]) -> bool:
    try:
        work()
        return True
    except torch.cuda.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()  # here, where the error holds nothing any longer
    return False


def _reference(setting: Setting) -> float:
    """The penalty in float64, from maps multiplied out."""
    images = setting.images[:COUNTED].double()
    models = (unfused(copy.deepcopy(model)).double() for model in (setting.target, setting.source))
    with torch.no_grad():
        return float(penalty_of(*(unfused_rows(model, images, setting.layers)[1] for model in models)))


def _floor(setting: Setting, plain: float) -> dict[str, float]:
    """FLOPs per image that a guide must make whose source sees the images in the step, as a ratio to the plain step.

    Those of the plain step; of the source up to the last guided layer, and in it no more than q of [cls] and k of the
    patches; of the rows of both, and backward of the target's. At equal speed per FLOP no such step is faster; a source
    in lower precision or rows that are reused can be.
    """
    vit, shape = vit_info(setting.source), shape_of(setting.source)
    capture = AttentionLogits(vit, setting.layers)
    until = flops(lambda: run_and_capture(setting.source, setting.images[:1], [capture]))
    tokens, inner = shape.patches + vit.prefix_tokens, shape.heads * shape.head_width
    source = until - 2 * inner * inner * (3 * tokens - shape.patches - 1)  # without what it makes of the last q, k, v
    rows = rows_flops(shape, len(setting.layers))
    return {
        "plain_flops": plain, "source_flops": source, "rows_flops": rows, "ratio": (plain + source + rows) / plain
    }  # fmt: skip
