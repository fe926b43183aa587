"""What guidance costs on this machine: its training step beside the plain one, and beside how it is done elsewhere.

    found = bench(Bench(source="dinov2.safetensors", image_size=126))

docs/cost.md says what every number means.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from gta.benchmark.meters import compared, flops, interleaved, line_through, peak_bytes, saved_bytes
from gta.benchmark.options import Bench
from gta.benchmark.pipeline import pipeline
from gta.benchmark.rows import ROWS, WEIGHT, Row, penalty_of, plain_row, unfused_rows
from gta.benchmark.setting import CLASSES, Setting, described, head_width, patch_of, patches_of
from gta.errors import GtaError
from gta.guidance import Guided
from gta.sources.loading import new_target
from gta.training.fit import load_for_training
from gta.vit.attention_logits import Factors, RowTap, read_rows
from gta.vit.whole_maps import squared_difference

COUNTED = 2  # images that FLOPs are counted on and penalties compared on; per image both are the same for any number
TOKENS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # shares of the patches of --image-size that growth is measured at
LAYERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of the depth


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
        counted = flops(partial(_backward, row, few)) / (row.steps * COUNTED)
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
        line["saved_bytes"] = saved_bytes(partial(_forward, row, setting), row.model.parameters())
        line["peak_bytes"] = peak_bytes(works[name], setting.device)
        line["source_bytes"] = sum(_bytes(model) for model in row.beside) + row.copies()
    return {"rows": found, "floor": _floor(setting, plain, found["gta"]["ratio"])}


def _rows(setting: Setting) -> dict[str, Row]:
    made = {name: make(setting) for name, make in ROWS.items()}
    return {name: row for name, row in made.items() if row is not None}


def _forward(row: Row, setting: Setting) -> Tensor:
    with setting.autocast():
        loss, penalty = row.forward()
    return loss + penalty


def _backward(row: Row, setting: Setting) -> None:
    for _ in range(row.steps):
        _forward(row, setting).backward()  # type: ignore[no-untyped-call]
        row.model.zero_grad()


def _step(row: Row, optimizer: torch.optim.Optimizer, setting: Setting) -> None:
    for _ in range(row.steps):
        _forward(row, setting).backward()  # type: ignore[no-untyped-call]
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
    in lower precision, rows that are reused or a guide every other step can be.
    """
    few, body = setting.part(1), vit_info(setting.source)
    reading: list[Any] = []

    def read() -> None:
        reading.extend(read_rows(setting.source, few.images, body, setting.layers))

    until = flops(read)
    heads, patches = reading[-1].shape[1:]
    width = int(setting.source.embed_dim)  # type: ignore[arg-type]
    inner = heads * head_width(setting.source)
    unneeded = 2 * width * inner * (3 * (patches + body.prefix_tokens) - patches - 1)  # of the last q, k and v
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


def rows_flops(source: nn.Module, patches: int, layers: int) -> int:
    """Per image, of the rows of both models and of the target's backward to q and to k.

    They are products of elements and sums, which torch's counter leaves out.
    """
    return 4 * 2 * vit_info(source).heads * head_width(source) * patches * layers


# --- whole maps -------------------------------------------------------------------------------------------


def whole_maps(setting: Setting, size: int, batch: int, rounds: int) -> dict[str, Any]:
    """Distance of whole N×N maps, forward and backward, with and without building them.

    q and k are random numbers: for the time and memory those of another image; for the error both "apart" (another
    image) and "close" (a hundredth away).
    """
    tokens = patches_at(setting, size)
    heads, width = vit_info(setting.source).heads, head_width(setting.source)
    ours, naive = _maps_work(_without_maps), _maps_work(_with_maps)
    factors = [f for _ in range(2) for f in _queries_and_keys(batch, heads, tokens, width, setting.device)]
    works = {"naive": partial(naive, factors), "gta": partial(ours, factors)}
    seconds = interleaved(works, rounds, setting.device)
    peaks = {name: peak_bytes(work, setting.device) for name, work in works.items()}
    found: dict[str, Any] = {
        "size": size, "tokens": tokens, "batch": batch, "heads": heads, "head_width": width, "seconds": seconds,
        "peak_bytes": peaks,
        "faster": compared(seconds["naive"], seconds["gta"]),
        "less_memory": peaks["naive"] / peaks["gta"],
        "off": {},
    }  # fmt: skip
    near = [f + 0.01 * torch.randn_like(f) for f in factors[:2]]
    for how, four in (("apart", factors), ("close", [*factors[:2], *near])):
        exact = naive([f.double() for f in four])
        found["off"][how] = {name: _off(work(four), exact) for name, work in (("naive", naive), ("gta", ours))}
    return found


def patches_at(setting: Setting, size: int) -> int:
    """Patches of an image of that side in px; GtaError where they do not divide it."""
    patch = patch_of(setting.source)
    if size % patch:
        low = max(patch, size // patch * patch)
        raise GtaError(
            f"--full-size {size} is not a multiple of the source's {patch} px patches: write {low} or {low + patch}."
        )
    return int((size // patch) ** 2)


def _with_maps(q: Tensor, k: Tensor, q_source: Tensor, k_source: Tensor, scale: float) -> Tensor:
    return ((q * scale) @ k.mT - (q_source * scale) @ k_source.mT).square().mean()


def _without_maps(q: Tensor, k: Tensor, q_source: Tensor, k_source: Tensor, scale: float) -> Tensor:
    return squared_difference(Factors(q, k, scale, None), Factors(q_source, k_source, scale, None)).mean()


def _maps_work(distance: Callable[..., Tensor]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Value, and gradients of the target's q and k."""

    def work(factors: Sequence[Tensor]) -> list[Tensor]:
        q, k = (f.detach().requires_grad_() for f in factors[:2])
        value = distance(q, k, *factors[2:], factors[0].shape[-1] ** -0.5)
        return [value.detach(), *torch.autograd.grad(value, (q, k))]

    return work


def _off(found: list[Tensor], exact: list[Tensor]) -> dict[str, float]:
    value, *gradients = [float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)]
    return {"value": value, "gradient": max(gradients)}


def _queries_and_keys(batch: int, heads: int, tokens: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
    """Random q and k, (B, H, N, d), side by side in memory as a ViT's one projection leaves them."""
    return torch.randn(batch, tokens, 2, heads, width, device=device).permute(2, 0, 3, 1, 4).unbind(0)


# --- growth -----------------------------------------------------------------------------------------------


class _Guide:
    """What a guide adds to a step: the source's pass, and the rows' products, distance and backward to q and k."""

    def __init__(
        self,
        target: nn.Module,
        source: nn.Module,
        layers: Sequence[int],
        setting: Setting,
        drawn: list[list[tuple[Tensor, Tensor]]],
    ) -> None:
        """`drawn`: q and k of target and source, which a step makes in any case, as random numbers."""
        self.guided = Guided(target, source, WEIGHT, layers, "l2", "mean")
        self.images, self.setting = setting.images, setting
        tokens = patches_of(source) + 1
        self.tuned, self.frozen = ([(q[:, :, :tokens], k[:, :, :tokens]) for q, k in of[: len(layers)]] for of in drawn)

    def whole(self) -> None:
        """Source, rows, distance, backward."""
        with self.setting.autocast():
            self._distance(self.guided.source_rows(self.images))

    def rows(self) -> None:
        """The same without the source's pass."""
        with torch.no_grad():
            self._distance(self._read(self.frozen))

    def _distance(self, source: list[Any]) -> None:
        leaves = [(q.detach().requires_grad_(), k.detach().requires_grad_()) for q, k in self.tuned]
        with torch.enable_grad():
            distance = self.guided.distances(self._read(leaves), source).mean()
            torch.autograd.grad(distance, [t for pair in leaves for t in pair])

    def _read(self, pairs: list[tuple[Tensor, Tensor]]) -> list[Any]:
        tap = RowTap(range(len(pairs)), 1)
        for q, k in pairs:
            tap.attention(q, k, k)
        return tap.read

    def flops(self) -> tuple[float, float]:
        """Per image: of `whole`, and of `rows`."""
        rows = rows_flops(self.guided.source, patches_of(self.guided.source), len(self.guided.layers))
        return flops(lambda: self.guided.source_rows(self.images[:1])) + rows, rows


def _drawn(setting: Setting, layers: int, patches: int) -> list[list[tuple[Tensor, Tensor]]]:
    heads, width = vit_info(setting.source).heads, head_width(setting.source)
    made: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for of in made:
        for _ in range(layers):
            q, k = _queries_and_keys(len(setting.images), heads, patches + 1, width, setting.device)
            if setting.low:
                q, k = q.bfloat16(), k.bfloat16()
            of.append((q, k))
    return made


def growth_with_layers(setting: Setting, rounds: int) -> dict[str, Any]:
    """Cost of the guide of the first 1 … depth layers."""
    depth = vit_info(setting.source).depth
    counts = sorted({max(1, round(share * depth)) for share in LAYERS})
    drawn = _drawn(setting, depth, patches_of(setting.source))
    guides = {count: _Guide(setting.target, setting.source, range(count), setting, drawn) for count in counts}
    return _growth(guides, setting, rounds)


def growth_with_tokens(setting: Setting, options: Bench) -> dict[str, Any]:
    """Cost of the guide on smaller and larger images; beside it the plain step's FLOPs at each size."""
    patch = patch_of(setting.source)
    across = options.image_size // patch
    sides = sorted({max(2, round(across * share**0.5)) for share in TOKENS})
    drawn = _drawn(setting, len(setting.layers), sides[-1] ** 2)
    guides, plain = {}, []
    for side in sides:
        source = load_for_training(options.source, side * patch, options.heads).to(setting.device)
        images = torch.randn(*setting.images.shape[:2], side * patch, side * patch, device=setting.device)
        there = replace(setting, target=new_target(source, CLASSES).to(setting.device), source=source, images=images)
        few = there.part(COUNTED)
        plain.append(flops(partial(_backward, plain_row(few), few)) / COUNTED)
        twin = copy.deepcopy(source, {id(p): p for p in source.parameters()})  # shares the weights
        guides[side**2] = _Guide(twin, source, setting.layers, there, drawn)
    return {**_growth(guides, setting, options.rounds), "plain_flops": plain}


def _growth(guides: dict[int, _Guide], setting: Setting, rounds: int) -> dict[str, Any]:
    """Times and FLOPs of the guides by what grows, and the lines through them."""
    works: dict[str, Callable[[], None]] = {}
    for x, guide in guides.items():
        works |= {f"guide {x}": guide.whole, f"rows {x}": guide.rows}
    seconds = interleaved(works, rounds, setting.device)
    found: dict[str, Any] = {"x": list(guides)}
    for part in ("guide", "rows"):
        times = [seconds[f"{part} {x}"] for x in guides]
        found[part] = {"seconds": times, "line": line_through(found["x"], [median(t) for t in times])}
    counted = [guide.flops() for guide in guides.values()]
    found["guide"]["flops"], found["rows"]["flops"] = map(list, zip(*counted, strict=True))
    return found
