"""How the guide's cost grows with layers and with tokens, and what whole maps cost with and without building them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from gta.benchmark.meters import compared, flops, interleaved, line_through, peak_bytes
from gta.benchmark.options import Bench
from gta.benchmark.rows import COUNTED, WEIGHT, backward, plain_row, rows_flops
from gta.benchmark.setting import CLASSES, Setting, head_width, patch_of, patches_of
from gta.errors import GtaError
from gta.guided import guide
from gta.sources.loading import new_target
from gta.training.fit import load_for_training
from gta.vit.attention_logits import AttentionLogits, QueryKeyPair
from gta.vit.structure import vit_info
from gta.vit.whole_maps import squared_difference

TOKENS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # shares of the patches of --image-size that growth is measured at
LAYERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of the depth


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
    return squared_difference(QueryKeyPair(q, k, scale, None), QueryKeyPair(q_source, k_source, scale, None)).mean()


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
        self.guided = guide(target, source, WEIGHT, layers, source_precision="auto")
        self.images, self.setting = setting.images, setting
        tokens = patches_of(source) + 1
        self.tuned, self.frozen = ([(q[:, :, :tokens], k[:, :, :tokens]) for q, k in of[: len(layers)]] for of in drawn)

    def whole(self) -> None:
        """Source, rows, distance, backward."""
        with self.setting.autocast():
            self._distance(self._source(self.images))

    def rows(self) -> None:
        """The same without the source's pass."""
        with torch.no_grad():
            self._distance(self._read(self.frozen))

    def _distance(self, source: list[Any]) -> None:
        leaves = [(q.detach().requires_grad_(), k.detach().requires_grad_()) for q, k in self.tuned]
        with torch.enable_grad():
            distance = self.guided.guidance.distances(self._read(leaves), source).mean()
            torch.autograd.grad(distance, [t for pair in leaves for t in pair])

    def _read(self, pairs: list[tuple[Tensor, Tensor]]) -> list[Any]:
        capture = AttentionLogits(self.guided.guidance.source, range(len(pairs)))
        for q, k in pairs:
            capture.attention(q, k, k)
        return capture._read

    def _source(self, images: Tensor) -> list[Any]:
        self.guided.guidance.source_pass.step = 1  # no check of the precision
        return self.guided.capture_source(images)

    def flops(self) -> tuple[float, float]:
        """Per image: of `whole`, and of `rows`."""
        rows = rows_flops(self.guided.source, patches_of(self.guided.source), len(self.guided.layers))
        return flops(lambda: self._source(self.images[:1])) + rows, rows


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
        plain.append(flops(partial(backward, plain_row(few), few)) / COUNTED)
        twin = copy.deepcopy(source, {id(p): p for p in source.parameters()})  # shares the weights
        guides[side**2] = _Guide(twin, source, setting.layers, there, drawn)
    return {**_growth(guides, setting, options.rounds), "plain_flops": plain}


def _growth(guides: dict[int, _Guide], setting: Setting, rounds: int) -> dict[str, Any]:
    """Times and FLOPs of the guides by what grows, and the lines through them."""
    works: dict[str, Callable[[], None]] = {}
    for x, one in guides.items():
        works |= {f"guide {x}": one.whole, f"rows {x}": one.rows}
    seconds = interleaved(works, rounds, setting.device)
    found: dict[str, Any] = {"x": list(guides)}
    for part in ("guide", "rows"):
        times = [seconds[f"{part} {x}"] for x in guides]
        found[part] = {"seconds": times, "line": line_through(found["x"], [median(t) for t in times])}
    counted = [one.flops() for one in guides.values()]
    found["guide"]["flops"], found["rows"]["flops"] = map(list, zip(*counted, strict=True))
    return found
