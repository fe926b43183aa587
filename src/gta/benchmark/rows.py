"""Ways to take a training step: plain, guided, and as it is done elsewhere.

To compare one more, write a function that makes a `Row` of a `Setting` and put it into `ROWS`.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gta.acceleration.row_store import RowStore
from gta.acceleration.source_pass import FIRST_CHECKS, AdaptivePass
from gta.benchmark.setting import COUNTED, Setting, shape_of
from gta.errors import GtaError
from gta.methods.base import Method
from gta.methods.compose import ComposedMethod
from gta.methods.gta import GTA
from gta.methods.plain import Plain
from gta.training.stored_rows import rows_to_store
from gta.vit.structure import vit_info

WEIGHT = 10.0
Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Row:
    """One way to take a training step.

    Attributes:
        says: what it is, in a line.
        model: what is trained.
        forward: from images and labels to cross-entropy and penalty, float32 scalars.
        beside: the model held in memory beside the one that is trained.
        copies: bytes of copies of its weights.
        same: whether its penalty must be that of `gta` with λ = `WEIGHT`.
        against: the row that its time is compared with.
        compiled: makes the products of `gta`, in a graph in which they cannot be counted.
    """

    says: str
    model: nn.Module
    forward: Forward
    beside: nn.Module | None = None
    copies: Callable[[], int] = lambda: 0
    same: bool = False
    against: str = "plain"
    compiled: bool = False


def _method(setting: Setting, says: str, method: Method, stored: Callable[..., Any] | None = None, **more: Any) -> Row:
    """Steps of a method as training takes them, from the first on in which the precision of the source is decided."""
    composed = ComposedMethod(setting.target, setting.source, [method], attention=setting.attention)
    steps = count(FIRST_CHECKS[0])

    def forward(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        composed.begin_step(next(steps), steps=1)
        done = composed(images, labels, stored and {method.name: stored(images)})
        return done.loss, done.penalty

    with setting.autocast():
        forward(setting.images, setting.labels)
    source_pass = method.guidance.source_pass if isinstance(method, GTA) else None
    copies = source_pass.copied_bytes if isinstance(source_pass, AdaptivePass) else lambda: 0
    return Row(says, setting.target, forward, copies=copies, **more)


def _guided(setting: Setting, says: str, weight: float | str = WEIGHT, compiled: bool = False) -> Row:
    method = GTA(weight, layers=setting.layers, source_precision="auto", source_compile=compiled)
    same = weight == WEIGHT
    return _method(setting, says, method, beside=setting.source, same=same, compiled=compiled)


def _gta_compiled(setting: Setting) -> Row | None:
    try:
        row = _guided(setting, "guided, the source's pass compiled (--source-compile)", compiled=True)
        with setting.autocast(), torch.no_grad():
            row.forward(setting.images[:COUNTED], setting.labels[:COUNTED])  # another shape, another graph
        return row
    except GtaError:  # torch.compile has no compiler here
        return None


def _gta_reuse(setting: Setting) -> Row:
    """The rows are read from a store, checksums included, as training's data loader does."""
    method = GTA(WEIGHT, layers=setting.layers, source_precision="auto")
    method.attach(setting.target, setting.source)
    folder = TemporaryDirectory(prefix="gta-bench-")
    pairs = [(str(i), 0) for i in range(len(setting.images))]

    @cache
    def store(low: bool) -> RowStore:
        stored = torch.stack(rows_to_store(method, setting.source, setting.images, setting.attention), 1)
        made = RowStore(Path(folder.name), {"autocast": low}, stored.shape[1:])
        with made.filling():
            made.add(pairs, [stored])
        return made

    def rows(images: Tensor) -> list[Tensor]:
        kept = store(torch.is_autocast_enabled(images.device.type))
        with torch.autocast(images.device.type, enabled=False):  # a data loader knows of none
            read = torch.stack([kept.read(pair) for pair in pairs[: len(images)]])
            return list(read.to(images.device, non_blocking=True).float().unbind(1))

    return _method(setting, "guided, the source's rows read from a store (--reuse)", method, rows, same=True)


def _alone(says: str, model: nn.Module, logits: Callable[[Tensor], Tensor]) -> Row:
    def forward(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return F.cross_entropy(logits(images).float(), labels), torch.zeros((), device=labels.device)

    return Row(says, model, forward)


def _beside(
    says: str, model: nn.Module, source: nn.Module, read: Callable[..., tuple[Tensor, list[Tensor]]], **more: Any
) -> Row:
    """The penalty on what `read` gives of a model and images beside its logits, of all of the source's pass."""

    def forward(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            _, frozen = read(source, images)
        logits, rows = read(model, images)
        return F.cross_entropy(logits.float(), labels), penalty_of(rows, frozen)

    return Row(says, model, forward, beside=source, **more)


def _unfused_plain(setting: Setting) -> Row:
    """What it does by itself that attention is multiplied out: on CPUs in bf16 the fused backward can be the slower."""

    return _alone("cross-entropy alone, attention multiplied out", setting.target, unfused(setting.target))


def _hooks(setting: Setting) -> Row:
    """As most repositories do it: attention multiplied out in both models, the source run to its end."""
    says = "both models' attention multiplied out and its [cls] rows kept, full source pass"
    twins = {id(model): unfused(model) for model in (setting.target, setting.source)}
    read = partial(unfused_rows, layers=setting.layers)
    return _beside(says, setting.target, setting.source, lambda m, x: read(twins[id(m)], x), same=True)


def _transformers_plain(setting: Setting) -> Row | None:
    if setting.peers is None:
        return None
    target: Any = setting.peers[0]
    says = "transformers' own model of the same shape, fused attention, cross-entropy alone"
    return _alone(says, target, lambda images: _attending(target, "sdpa")(images).logits)


def _transformers_attentions(setting: Setting) -> Row | None:
    """As transformers offers it: all maps of both models after softmax, which is all that its interface gives."""
    if setting.peers is None:
        return None
    patches = shape_of(setting.target).patches

    def read(model: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen = _attending(model, "eager")(images, output_attentions=True)
        return seen.logits, [seen.attentions[layer][:, :, 0, -patches:].float() for layer in setting.layers]

    says = "the same with output_attentions=True, eager: rows after softmax, so another penalty"
    return _beside(says, *setting.peers, read, against="transformers plain")


ROWS: dict[str, Callable[[Setting], Row | None]] = {
    "plain": lambda s: _method(s, "cross-entropy alone", Plain()),
    "plain as it comes": lambda s: _alone("cross-entropy alone, in plain PyTorch", s.target, s.target),
    "gta": lambda s: _guided(s, "guided, the source beside the target"),
    "gta compiled": _gta_compiled,
    "gta weight=auto": lambda s: _guided(s, "guided, with --weight auto", weight="auto"),
    "gta reuse": _gta_reuse,
    "unfused plain": _unfused_plain,
    "unfused hooks": _hooks,
    "transformers plain": _transformers_plain,
    "output_attentions": _transformers_attentions,
}  # a function gives None where it cannot be done here; `against` names a row above
BOUNDED = ("plain", "plain as it comes", "gta", "gta reuse", "unfused plain", "unfused hooks")  # docs/cost.md#bounds


def penalty_of(target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    return WEIGHT * torch.stack([(t - s).square().mean() for t, s in zip(target, source, strict=True)]).mean()


def _attending(model: Any, how: str) -> Any:
    if model.config._attn_implementation != how:
        model.set_attn_implementation(how)
    return model


def unfused_rows(model: nn.Module, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits of an `unfused` model, and its [cls] rows (B, H, N) of all tokens but the prefix."""
    with _SoftmaxInputs(vit_info(model).prefix_tokens) as seen:
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


def unfused(model: nn.Module) -> nn.Module:
    """A twin that has the model's weights; timm multiplies its attention out."""
    twin = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    for module in twin.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    return twin
