"""What guidance costs on this machine: its training step beside the plain one, and beside how it is done elsewhere.

    found = bench(Bench(source="dinov2.safetensors", image_size=126))

docs/cost.md says what every number means. To compare one more way of taking a step, write a function that makes a `Row`
of a `Setting` and put it into `ROWS`.
"""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gta.errors import GtaError
from gta.full_maps import squared_difference
from gta.guidance import Guided
from gta.methods.gta import GTA
from gta.methods.parts import Part
from gta.methods.plain import Plain
from gta.methods.recipe import Recipe
from gta.sources import new_target, source_info
from gta.studies.meters import compared, flops, in_turn, line_through, peak_bytes, saved_bytes
from gta.taps import Factors, anatomy, read_rows, resolve_layers
from gta.training.fit import load_for_training, resolve_precision
from gta.training.options import TrainOptions

WEIGHT = 10.0
CLASSES = 10
COUNTED = 2  # images that FLOPs are counted on and penalties compared on; per image both are the same for any number
TOKENS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # shares of the patches of --image-size that growth is measured at
LAYERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of the depth


@dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
        source, heads, image_size, batch_size, precision, layers: as in `TrainOptions`.
        rounds: how often everything is timed.
        full_size, full_batch: image side in px and images of which whole N×N maps are compared.
    """

    source: str
    heads: int | None = None
    image_size: int = 224
    batch_size: int = 32
    rounds: int = 9
    precision: str = "auto"
    layers: list[int] | str = "all"
    full_size: int = 518
    full_batch: int = 2

    def __post_init__(self) -> None:
        read = TrainOptions(data="", out="", layers=self.layers).layers  # "0,-1" is a list
        object.__setattr__(self, "layers", read)
        for name, least in (("image_size", 1), ("batch_size", 2), ("rounds", 2), ("full_size", 1), ("full_batch", 1)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise GtaError(f"--{flag} {getattr(self, name)} cannot be used: write {least} or more.")
        if self.precision not in ("auto", "32", "bf16"):
            raise GtaError(f"--precision {self.precision} cannot be used: write auto, 32 or bf16.")


def bench(options: Bench, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure; seconds to minutes.

    Args:
        options: what.
        say: told what is being done.

    Returns:
        The content of bench.json: `setting`, `steps`, `whole_maps` and `growth`, with all times as they were taken.

    Raises:
        GtaError: a source or an option that cannot be used.
    """
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    setting = Setting.of(options)
    patches_at(setting, options.full_size)  # refuses before minutes are spent
    say(f"training steps, {options.rounds} rounds …")
    steps = training_steps(setting, options.rounds)
    say(f"whole maps, {options.full_size} px …")
    maps = whole_maps(setting, options.full_size, options.full_batch, options.rounds)
    say("growth with layers and with tokens …")
    grown = {
        "layers": growth_with_layers(setting, options.rounds),
        "tokens": growth_with_tokens(setting, options),
    }
    return {
        "setting": {**_described(setting, options), "load_before": busy},
        "steps": steps,
        "whole_maps": maps,
        "growth": grown,
    }


# --- the setting ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What every row shares.

    Attributes:
        target, source: of timm. The target's weights are moved a little away from the source's, so that there is a
            penalty.
        peers: target and source of the same shape from transformers, random weights; None where it is not installed.
        images: (B, C, height, width), noise.
        labels: (B,).
        layers: guided layers, ascending.
        low: whether training is in bf16 autocast.
    """

    target: nn.Module
    source: nn.Module
    peers: tuple[nn.Module, nn.Module] | None
    images: Tensor
    labels: Tensor
    layers: tuple[int, ...]
    low: bool

    @classmethod
    def of(cls, options: Bench) -> Setting:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        source = load_for_training(options.source, options.image_size, options.heads).to(device)
        body = anatomy(source)
        generator = torch.Generator().manual_seed(0)
        target = _moved(new_target(source, CLASSES), generator).to(device)
        size = (options.batch_size, body.channels, options.image_size, options.image_size)
        return cls(
            target=target,
            source=source,
            peers=_peers(target, device),
            images=torch.randn(size, generator=generator).to(device),
            labels=torch.randint(CLASSES, size[:1], generator=generator).to(device),
            layers=resolve_layers(options.layers, body.depth),
            low="bf16" in resolve_precision(options.precision),
        )

    @property
    def device(self) -> torch.device:
        return self.images.device

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.low else nullcontext()

    def part(self, count: int) -> Setting:
        """The same with fewer images."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])


def _moved(model: nn.Module, generator: torch.Generator) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std() * 0.02)
    return model


def _peers(target: nn.Module, device: torch.device) -> tuple[nn.Module, nn.Module] | None:
    """Target and source in transformers: DINOv2 where the target scales its layers' outputs, else ViT."""
    try:
        import transformers
    except ImportError:
        return None
    vit: Any = target
    block = vit.blocks[0]
    shape = {
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": anatomy(target).heads,
        "image_size": vit.patch_embed.img_size[0],
        "patch_size": vit.patch_embed.patch_size[0],
        "num_channels": anatomy(target).channels,
        "num_labels": CLASSES,
    }
    hidden = block.mlp.fc1.out_features if hasattr(block.mlp, "fc1") else 4 * vit.embed_dim
    ratio, registers = round(hidden / vit.embed_dim), anatomy(target).prefix_tokens - 1
    kind: Any
    if isinstance(getattr(block, "ls1", None), (nn.Identity, type(None))):
        kind = transformers.ViTForImageClassification
        config: Any = transformers.ViTConfig(**shape, intermediate_size=hidden)
    elif registers:
        kind = transformers.Dinov2WithRegistersForImageClassification
        config = transformers.Dinov2WithRegistersConfig(**shape, mlp_ratio=ratio, num_register_tokens=registers)
    else:
        kind = transformers.Dinov2ForImageClassification
        config = transformers.Dinov2Config(**shape, mlp_ratio=ratio)
    models = [kind._from_config(copy.deepcopy(config), attn_implementation="sdpa").to(device) for _ in range(2)]
    return models[0].train(), models[1].requires_grad_(False).eval()


# --- ways to take a step ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One way to take a training step.

    Attributes:
        says: what it is, in a line.
        model: what is trained.
        forward: on the setting's images, to cross-entropy and penalty, float32 scalars.
        beside: models held in memory beside the one that is trained.
        same: whether its penalty must be that of `gta` with λ = `WEIGHT`.
        against: the row that its time is compared with.
        steps: taken together, with the mean of their costs; more than one where a row's steps differ.
    """

    says: str
    model: nn.Module
    forward: Callable[[], tuple[Tensor, Tensor]]
    beside: Sequence[nn.Module] = ()
    same: bool = False
    against: str = "plain"
    steps: int = 1


def _method(setting: Setting, part: Part, says: str, **more: Any) -> Row:
    recipe = Recipe(setting.target, setting.source, [part])

    def forward() -> tuple[Tensor, Tensor]:
        done = recipe(setting.images, setting.labels)
        return done.loss, done.penalty

    return Row(says, setting.target, forward, **more)


def _plain(setting: Setting) -> Row:
    return _method(setting, Plain(), "cross-entropy alone")


def _gta(setting: Setting) -> Row:
    part = GTA(weight=WEIGHT, layers=setting.layers)
    return _method(setting, part, "guided, the source beside the target", beside=[setting.source], same=True)


def _gta_auto(setting: Setting) -> Row:
    part = GTA(weight="auto", layers=setting.layers)
    return _method(setting, part, "guided, with --weight auto", beside=[setting.source])


def _unfused_plain(setting: Setting) -> Row:
    """What it does by itself that attention is multiplied out: on CPUs in bf16 the fused backward can be the slower."""

    def forward() -> tuple[Tensor, Tensor]:
        with unfused(setting.target):
            logits = setting.target(setting.images)
        return F.cross_entropy(logits.float(), setting.labels), torch.zeros((), device=setting.device)

    return Row("cross-entropy alone, attention multiplied out", setting.target, forward)


def _hooks(setting: Setting) -> Row:
    """As most repositories do it: attention multiplied out in both models, the source run to its end."""

    def forward() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            _, frozen = _unfused_rows(setting.source, setting.images, setting.layers)
        logits, rows = _unfused_rows(setting.target, setting.images, setting.layers)
        return F.cross_entropy(logits.float(), setting.labels), _penalty(rows, frozen)

    says = "both models' attention multiplied out and its [cls] rows kept, full source pass"
    return Row(says, setting.target, forward, beside=[setting.source], same=True)


def _transformers_plain(setting: Setting) -> Row | None:
    if setting.peers is None:
        return None
    target, _ = setting.peers

    def forward() -> tuple[Tensor, Tensor]:
        _attend(target, "sdpa")
        logits = target(setting.images).logits
        return F.cross_entropy(logits.float(), setting.labels), torch.zeros((), device=setting.device)

    return Row("transformers' own model of the same shape, fused attention, cross-entropy alone", target, forward)


def _transformers_attentions(setting: Setting) -> Row | None:
    """As transformers offers it: all maps of both models after softmax, which is all that its interface gives."""
    if setting.peers is None:
        return None
    target, source = setting.peers
    patches = _patches(setting.target)

    def rows(model: nn.Module) -> tuple[Tensor, list[Tensor]]:
        _attend(model, "eager")
        seen = model(setting.images, output_attentions=True)
        maps = [seen.attentions[layer] for layer in setting.layers]
        return seen.logits, [m[:, :, 0, -patches:].float() for m in maps]

    def forward() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            _, frozen = rows(source)
        logits, tuned = rows(target)
        return F.cross_entropy(logits.float(), setting.labels), _penalty(tuned, frozen)

    says = "the same with output_attentions=True, eager: rows after softmax, so another penalty"
    return Row(says, target, forward, beside=[source], against="transformers plain")


ROWS: dict[str, Callable[[Setting], Row | None]] = {
    "plain": _plain,
    "gta": _gta,
    "gta weight=auto": _gta_auto,
    "unfused plain": _unfused_plain,
    "unfused hooks": _hooks,
    "transformers plain": _transformers_plain,
    "output_attentions": _transformers_attentions,
}  # a function gives None where it cannot be done here; `against` names a row above


def _penalty(target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    return WEIGHT * torch.stack([(t - s).square().mean() for t, s in zip(target, source, strict=True)]).mean()


def _attend(model: nn.Module, how: str) -> None:
    if model.config._attn_implementation != how:  # type: ignore[union-attr]
        model.set_attn_implementation(how)  # type: ignore[operator]


def _unfused_rows(model: nn.Module, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits of the model, and its [cls] rows (B, H, N) of all tokens but the prefix."""
    with unfused(model), (seen := _SoftmaxInputs(anatomy(model).prefix_tokens)):
        logits = model(images)
    return logits, [seen.rows[layer] for layer in layers]


class _SoftmaxInputs(TorchFunctionMode):
    """Copies the [cls] rows out of the maps that attention hands to softmax."""

    def __init__(self, prefix_tokens: int) -> None:
        super().__init__()
        self._prefix = prefix_tokens
        self.rows: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.softmax, torch.softmax, Tensor.softmax) and args[0].shape[-2] == args[0].shape[-1]:
            row = args[0][:, :, 0, self._prefix :].clone()  # or the whole map is kept for it
            self.rows.append(row if row.dtype == torch.float64 else row.float())
        return func(*args, **(kwargs or {}))


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """timm's attention multiplies its maps out inside."""
    modules: list[Any] = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    for module in modules:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in modules:
            module.fused_attn = True


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

    optimizers = {id(row.model): torch.optim.AdamW(row.model.parameters(), lr=1e-5) for row in rows.values()}
    works = {name: partial(_step, row, optimizers[id(row.model)], setting) for name, row in rows.items()}
    seconds = in_turn(works, rounds, setting.device)
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
        line["source_bytes"] = sum(_bytes(model) for model in row.beside)
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
            rows.append(_unfused_rows(exact, setting.images.double(), setting.layers)[1])
    return float(_penalty(*rows))


def _floor(setting: Setting, plain: float, measured: float) -> dict[str, float]:
    """FLOPs per image that a guide must make whose source sees the images in the step, as a ratio to the plain step.

    Those of the plain step; of the source up to the last guided layer, and in it no more than q of [cls] and k of the
    patches; of the rows of both, and backward of the target's. At equal speed per FLOP no such step is faster; a source
    in lower precision, rows that are reused or a guide every other step can be.
    """
    few, body = setting.part(1), anatomy(setting.source)
    reading: list[Any] = []

    def read() -> None:
        reading.extend(read_rows(setting.source, few.images, body, setting.layers))

    until = flops(read)
    heads, patches = reading[-1].shape[1:]
    width = int(setting.source.embed_dim)  # type: ignore[arg-type]
    inner = heads * _head_width(setting.source)
    unneeded = 2 * width * inner * (3 * (patches + body.prefix_tokens) - patches - 1)  # of the last q, k and v
    products = 2 * heads * _head_width(setting.source) * patches * len(setting.layers)  # of one model's rows
    guide = until - unneeded + 3 * products  # the target's forward, and backward to q and to k
    ratio = (plain + guide) / plain
    return {
        "plain_flops": plain,
        "source_flops": until - unneeded - products,
        "rows_flops": 4 * products,
        "ratio": ratio,
        "measured": measured,
        "over_floor": measured / ratio,
    }


def _head_width(model: nn.Module) -> int:
    attention: Any = anatomy(model).attentions[0]
    return int(getattr(attention, "head_dim", None) or model.embed_dim // attention.num_heads)  # type: ignore[operator]


# --- whole maps -------------------------------------------------------------------------------------------


def whole_maps(setting: Setting, size: int, batch: int, rounds: int) -> dict[str, Any]:
    """Distance of whole N×N maps, forward and backward, with and without building them.

    q and k are random numbers: for the time and memory those of another image; for the error both "apart" (another
    image) and "close" (a hundredth away).
    """
    tokens = patches_at(setting, size)
    heads, width = anatomy(setting.source).heads, _head_width(setting.source)
    ours, naive = _maps_work(_without_maps), _maps_work(_with_maps)
    factors = [f for _ in range(2) for f in _queries_and_keys(batch, heads, tokens, width, setting.device)]
    works = {"naive": partial(naive, factors), "gta": partial(ours, factors)}
    seconds = in_turn(works, rounds, setting.device)
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
    patch = _patch(setting.source)
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


def _patch(model: nn.Module) -> int:
    return int(model.patch_embed.patch_size[0])  # type: ignore[union-attr,index,arg-type]


def _patches(model: nn.Module) -> int:
    return int(model.patch_embed.num_patches)  # type: ignore[union-attr,arg-type]


# --- growth -----------------------------------------------------------------------------------------------


class _Guide:
    """What a guide adds to a step: the source's pass, and the rows' products, distance and backward to q and k."""

    def __init__(
        self, target: nn.Module, source: nn.Module, layers: Sequence[int], setting: Setting, drawn: list[list[Factors]]
    ) -> None:
        """`drawn`: q and k of target and source, which a step makes in any case, as random numbers."""
        self.guided = Guided(target, source, WEIGHT, layers, "l2", "mean")
        self.images, self.setting = setting.images, setting
        patches = _patches(source)
        self.tuned, self.frozen = ([f._replace(k=f.k[:, :, :patches]) for f in of[: len(layers)]] for of in drawn)

    def whole(self) -> None:
        """Source, rows, distance, backward."""
        with self.setting.autocast():
            self._distance(self.guided.source_rows(self.images))

    def rows(self) -> None:
        """The same without the source's pass."""
        self._distance(self.frozen)

    def _distance(self, source: list[Any]) -> None:
        leaves = [f._replace(q=f.q.detach().requires_grad_(), k=f.k.detach().requires_grad_()) for f in self.tuned]
        distance = self.guided.distance(leaves, source)  # type: ignore[arg-type]  # a list of one kind of reading
        torch.autograd.grad(distance, [t for f in leaves for t in (f.q, f.k)])

    def flops(self) -> tuple[float, float]:
        """Per image: of `whole`, and of `rows`. The source's pass makes the products of its own rows."""
        rows, images = flops(self.rows) / len(self.images), self.images[:1]
        return flops(lambda: self.guided.source_rows(images)) + rows * 3 / 4, rows


def _drawn(setting: Setting, layers: int, patches: int) -> list[list[Factors]]:
    heads, width = anatomy(setting.source).heads, _head_width(setting.source)
    made: list[list[Factors]] = [[], []]
    for of in made:
        for _ in range(layers):
            q, k = _queries_and_keys(len(setting.images), heads, patches + 1, width, setting.device)
            if setting.low:
                q, k = q.bfloat16(), k.bfloat16()
            of.append(Factors(q[:, :, :1], k[:, :, 1:], width**-0.5, None))
    return made


def growth_with_layers(setting: Setting, rounds: int) -> dict[str, Any]:
    """Cost of the guide of the first 1 … depth layers."""
    depth = anatomy(setting.source).depth
    counts = sorted({max(1, round(share * depth)) for share in LAYERS})
    drawn = _drawn(setting, depth, _patches(setting.source))
    guides = {count: _Guide(setting.target, setting.source, range(count), setting, drawn) for count in counts}
    return _growth(guides, setting, rounds)


def growth_with_tokens(setting: Setting, options: Bench) -> dict[str, Any]:
    """Cost of the guide on smaller and larger images; beside it the plain step's FLOPs at each size."""
    patch = _patch(setting.source)
    across = options.image_size // patch
    sides = sorted({max(2, round(across * share**0.5)) for share in TOKENS})
    drawn = _drawn(setting, len(setting.layers), sides[-1] ** 2)
    guides, plain = {}, []
    for side in sides:
        source = load_for_training(options.source, side * patch, options.heads).to(setting.device)
        images = torch.randn(*setting.images.shape[:2], side * patch, side * patch, device=setting.device)
        there = replace(setting, target=new_target(source, CLASSES).to(setting.device), source=source, images=images)
        few = there.part(COUNTED)
        plain.append(flops(partial(_backward, _plain(few), few)) / COUNTED)
        twin = copy.deepcopy(source, {id(p): p for p in source.parameters()})  # shares the weights
        guides[side**2] = _Guide(twin, source, setting.layers, there, drawn)
    return {**_growth(guides, setting, options.rounds), "plain_flops": plain}


def _growth(guides: dict[int, _Guide], setting: Setting, rounds: int) -> dict[str, Any]:
    """Times and FLOPs of the guides by what grows, and the lines through them."""
    works: dict[str, Callable[[], None]] = {}
    for x, guide in guides.items():
        works |= {f"guide {x}": guide.whole, f"rows {x}": guide.rows}
    seconds = in_turn(works, rounds, setting.device)
    found: dict[str, Any] = {"x": list(guides)}
    for part in ("guide", "rows"):
        times = [seconds[f"{part} {x}"] for x in guides]
        found[part] = {"seconds": times, "line": line_through(found["x"], [median(t) for t in times])}
    counted = [guide.flops() for guide in guides.values()]
    found["guide"]["flops"], found["rows"]["flops"] = map(list, zip(*counted, strict=True))
    each = [f / x for f, x in zip(found["rows"]["flops"], guides, strict=True)]
    found["rows"]["flops_spread"] = (max(each) - min(each)) / max(each)  # 0 where they are proportional
    return found


# --- where it was measured --------------------------------------------------------------------------------


def _described(setting: Setting, options: Bench) -> dict[str, Any]:
    info, body = source_info(setting.source), anatomy(setting.source)
    path = Path(options.source)
    return {
        "source": path.name if path.exists() else options.source,
        "architecture": info.architecture,
        "depth": body.depth,
        "heads": body.heads,
        "width": int(setting.source.embed_dim),  # type: ignore[arg-type]
        "patches": _patches(setting.source),
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "layers": list(setting.layers),
        "precision": "bf16" if setting.low else "32",
        "rounds": options.rounds,
        "device": torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else "CPU",
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "versions": _versions(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("gta-vit", "torch", "timm", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
