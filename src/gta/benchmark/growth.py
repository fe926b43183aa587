"""How the guide's cost grows with layers and with tokens.

What a guide adds to a step is measured alone: the whole of it, which is the source's pass, the rows' products, their
distance and its backward to the target's q and k; and the same without the source's pass, from random q and k.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gta.benchmark.meters import compared, flops, interleaved, line_through
from gta.benchmark.options import Bench
from gta.benchmark.rows import WEIGHT
from gta.benchmark.setting import CLASSES, Setting, load, queries_and_keys, rows_flops, shape_of
from gta.guided import guide
from gta.sources.loading import new_target
from gta.vit.attention_logits import AttentionLogits
from gta.vit.structure import vit_info

TOKENS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # shares of the patches of --image-size that growth is measured at
LAYERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of the depth

Pairs = list[tuple[Tensor, Tensor]]  # q and k of each layer


class Guide(NamedTuple):
    """What is measured of a guide; FLOPs are per image."""

    whole: Callable[[], None]
    rows: Callable[[], None]
    whole_flops: int
    rows_flops: int


def by_layers(setting: Setting, rounds: int) -> dict[str, Any]:
    """Of the first 1 … depth layers."""
    depth = vit_info(setting.source).depth
    counts = sorted({max(1, round(share * depth)) for share in LAYERS})
    drawn = _draw(setting, depth, shape_of(setting.source).patches)
    works = {n: _guide(setting, setting.target, setting.source, range(n), setting.images, drawn) for n in counts}
    return _measured(works, setting, rounds)


def by_tokens(setting: Setting, options: Bench) -> dict[str, Any]:
    """On smaller and larger images."""
    patch, across = shape_of(setting.source).patch, round(shape_of(setting.source).patches ** 0.5)
    sides = sorted({max(2, round(across * share**0.5)) for share in TOKENS})
    drawn = _draw(setting, len(setting.layers), sides[-1] ** 2)
    guides, shares = {}, []
    for side in sides:
        source = load(options, side * patch).to(setting.device)
        images = torch.randn(*setting.images.shape[:2], side * patch, side * patch, device=setting.device)
        target = new_target(source, CLASSES).to(setting.device)
        twin = copy.deepcopy(source, {id(p): p for p in source.parameters()})  # shares the weights
        guides[side**2] = _guide(setting, twin, source, setting.layers, images, drawn)
        shares.append(guides[side**2].whole_flops / _plain_flops(target, images[:1]))
    note = (
        f"Of the plain step's FLOPs the whole guide makes {min(shares):.1%} to {max(shares):.1%}, over all these "
        "numbers of tokens: the source's pass grows as the model's own does, attention's N² included."
    )
    found = _measured(guides, setting, options.rounds)
    return {**found, "shares": shares, "notes": [*found["notes"], note]}


def _draw(setting: Setting, layers: int, patches: int) -> list[Pairs]:
    """q and k of target and source, which a step makes in any case, as random numbers."""
    tokens, dtype = patches + vit_info(setting.source).prefix_tokens, torch.bfloat16 if setting.low else torch.float32
    pairs = [[queries_and_keys(setting, len(setting.images), tokens) for _ in range(layers)] for _ in range(2)]
    return [[(q.to(dtype), k.to(dtype)) for q, k in of] for of in pairs]


def _guide(
    setting: Setting, target: nn.Module, source: nn.Module, layers: Sequence[int], images: Tensor, drawn: list[Pairs]
) -> Guide:
    guided, shape = guide(target, source, WEIGHT, layers, source_precision="auto"), shape_of(source)
    guidance, tokens = guided.guidance, shape.patches + vit_info(source).prefix_tokens
    tuned, frozen = ([(q[:, :, :tokens], k[:, :, :tokens]) for q, k in of[: len(layers)]] for of in drawn)

    def run_source(images: Tensor) -> list[Any]:
        guidance.source_pass.step = 1  # no check of the precision
        return guided.capture_source(images)

    def read(pairs: Pairs) -> list[Any]:
        capture = AttentionLogits(guidance.source, range(len(pairs)))
        for q, k in pairs:
            capture.attention(q, k, k)
        return capture._read

    def compare(source: list[Any]) -> None:
        leaves = [(q.detach().requires_grad_(), k.detach().requires_grad_()) for q, k in tuned]
        torch.autograd.grad(guidance.distances(read(leaves), source).mean(), [t for pair in leaves for t in pair])

    def whole() -> None:
        with setting.autocast():
            compare(run_source(images))

    def rows() -> None:
        with torch.no_grad():
            of_source = read(frozen)
        compare(of_source)

    of_rows = rows_flops(shape, len(layers))
    return Guide(whole, rows, flops(lambda: run_source(images[:1])) + of_rows, of_rows)


def _plain_flops(target: nn.Module, image: Tensor) -> int:
    return flops(lambda: cross_entropy(target(image), torch.zeros(1, dtype=torch.long, device=image.device)).backward())


def _measured(guides: Mapping[int, Guide], setting: Setting, rounds: int) -> dict[str, Any]:
    works = {f"{part} {x}": getattr(one, part) for part in ("whole", "rows") for x, one in guides.items()}
    seconds = interleaved(works, rounds, setting.device)
    found: dict[str, Any] = {"x": list(guides), "rows": {}, "lines": {}, "notes": []}
    for part in ("whole", "rows"):
        largest, medians = f"{part} {max(guides)}", []
        for x, one in guides.items():
            row = compared(seconds[f"{part} {x}"], seconds[largest])
            row |= {"against": largest, "flops_per_image": getattr(one, f"{part}_flops")}
            found["rows"][f"{part} {x}"] = row
            medians.append(row["median_seconds"])
        line = found["lines"][part] = line_through(found["x"], medians)
        off = f"R² {line['r2']:.4f} of a line through the medians, {line['residual']:.1%} off it"
        found["notes"].append(f"{part}: {off}.")
    return found
