"""Ways to take a training step: plain, guided, and as it is done elsewhere.

To compare one more, write a function that makes a `Row` of a `Setting` and put it into `ROWS`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gta.acceleration.attention import ShortAttention
from gta.acceleration.row_store import RowStore
from gta.acceleration.source_pass import FIRST_CHECKS, AdaptivePass
from gta.benchmark.setting import Setting, head_width, patches_of
from gta.errors import GtaError
from gta.methods.base import Method
from gta.methods.compose import ComposedMethod
from gta.methods.gta import GTA
from gta.methods.plain import Plain
from gta.training.stored_rows import rows_to_store
from gta.vit.structure import vit_info

WEIGHT = 10.0
COUNTED = 2  # images that FLOPs are counted on and penalties compared on; per image both are the same for any number


@dataclass(frozen=True)
class Row:
    """One way to take a training step.

    Attributes:
        says: what it is, in a line.
        model: what is trained.
        forward: on the setting's images, to cross-entropy and penalty, float32 scalars.
        beside: models held in memory beside the one that is trained.
        copies: bytes of copies of their weights.
        same: whether its penalty must be that of `gta` with λ = `WEIGHT`.
        against: the row that its time is compared with.
        steps: taken together, with the mean of their costs; more than one where a row's steps differ.
    """

    says: str
    model: nn.Module
    forward: Callable[[], tuple[Tensor, Tensor]]
    beside: Sequence[nn.Module] = ()
    copies: Callable[[], int] = lambda: 0
    same: bool = False
    against: str = "plain"
    steps: int = 1


def _method(setting: Setting, method: Method, says: str, rows: Callable[[], Tensor] | None = None, **more: Any) -> Row:
    """Steps of a method as training takes them, from the first on in which the precision of the source is decided."""
    composed = ComposedMethod(setting.target, setting.source, [method], around_target=ShortAttention)
    steps = count(FIRST_CHECKS[0])

    def forward() -> tuple[Tensor, Tensor]:
        composed.begin_step(next(steps), steps=1)
        stored = None if rows is None else {method.name: list(rows().float().unbind(1))}
        done = composed(setting.images, setting.labels, stored)
        return done.loss, done.penalty

    with setting.autocast(), torch.no_grad():
        forward()
    source_pass = method.guidance.source_pass if isinstance(method, GTA) else None
    copies = source_pass.copied_bytes if isinstance(source_pass, AdaptivePass) else lambda: 0
    return Row(says, setting.target, forward, copies=copies, **more)


def plain_row(setting: Setting) -> Row:
    return _method(setting, Plain(), "cross-entropy alone")


def _plain_as_it_comes(setting: Setting) -> Row:
    def forward() -> tuple[Tensor, Tensor]:
        logits = setting.target(setting.images)
        return F.cross_entropy(logits.float(), setting.labels), torch.zeros((), device=setting.device)

    return Row("cross-entropy alone, in plain PyTorch", setting.target, forward)


def _gta(setting: Setting) -> Row:
    method = GTA(weight=WEIGHT, layers=setting.layers, source_precision="auto")
    return _method(setting, method, "guided, the source beside the target", beside=[setting.source], same=True)


def _gta_compiled(setting: Setting) -> Row | None:
    method = GTA(weight=WEIGHT, layers=setting.layers, source_precision="auto", source_compile=True)
    says = "guided, the source's pass compiled (--source-compile)"
    try:
        return _method(setting, method, says, beside=[setting.source], same=True)
    except GtaError:  # torch.compile has no compiler here
        return None


def _gta_auto(setting: Setting) -> Row:
    method = GTA(weight="auto", layers=setting.layers, source_precision="auto")
    return _method(setting, method, "guided, with --weight auto", beside=[setting.source])


def _gta_reuse(setting: Setting) -> Row:
    """The rows are read from a store, checksums included, as training's data loader does."""
    method = GTA(weight=WEIGHT, layers=setting.layers, source_precision="auto")
    method.attach(setting.target, setting.source)
    folder = TemporaryDirectory(prefix="gta-bench-")
    pairs = [(str(i), 0) for i in range(len(setting.images))]

    @cache
    def store(low: bool) -> RowStore:
        stored = torch.stack(rows_to_store(method, setting.source, setting.images), 1)
        made = RowStore(Path(folder.name), {"autocast": low}, stored.shape[1:])
        with made.filling():
            made.add(pairs, [stored])
        return made

    def rows() -> Tensor:
        kept = store(torch.is_autocast_enabled(setting.device.type))
        with torch.autocast(setting.device.type, enabled=False):  # a data loader knows of none
            return torch.stack([kept.read(pair) for pair in pairs]).to(setting.device, non_blocking=True)

    return _method(setting, method, "guided, the source's rows read from a store (--reuse)", rows, same=True)


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
            _, frozen = unfused_rows(setting.source, setting.images, setting.layers)
        logits, rows = unfused_rows(setting.target, setting.images, setting.layers)
        return F.cross_entropy(logits.float(), setting.labels), penalty_of(rows, frozen)

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
    patches = patches_of(setting.target)

    def rows(model: nn.Module) -> tuple[Tensor, list[Tensor]]:
        _attend(model, "eager")
        seen = model(setting.images, output_attentions=True)
        maps = [seen.attentions[layer] for layer in setting.layers]
        return seen.logits, [m[:, :, 0, -patches:].float() for m in maps]

    def forward() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            _, frozen = rows(source)
        logits, tuned = rows(target)
        return F.cross_entropy(logits.float(), setting.labels), penalty_of(tuned, frozen)

    says = "the same with output_attentions=True, eager: rows after softmax, so another penalty"
    return Row(says, target, forward, beside=[source], against="transformers plain")


ROWS: dict[str, Callable[[Setting], Row | None]] = {
    "plain": plain_row,
    "plain as it comes": _plain_as_it_comes,
    "gta": _gta,
    "gta compiled": _gta_compiled,
    "gta weight=auto": _gta_auto,
    "gta reuse": _gta_reuse,
    "unfused plain": _unfused_plain,
    "unfused hooks": _hooks,
    "transformers plain": _transformers_plain,
    "output_attentions": _transformers_attentions,
}  # a function gives None where it cannot be done here; `against` names a row above


def penalty_of(target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    return WEIGHT * torch.stack([(t - s).square().mean() for t, s in zip(target, source, strict=True)]).mean()


def _attend(model: nn.Module, how: str) -> None:
    if model.config._attn_implementation != how:  # type: ignore[union-attr]
        model.set_attn_implementation(how)  # type: ignore[operator]


def unfused_rows(model: nn.Module, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits of the model, and its [cls] rows (B, H, N) of all tokens but the prefix."""
    with unfused(model), (seen := _SoftmaxInputs(vit_info(model).prefix_tokens)):
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


def forward_pass(row: Row, setting: Setting) -> Tensor:
    with setting.autocast():
        loss, penalty = row.forward()
    return loss + penalty


def backward(row: Row, setting: Setting) -> None:
    for _ in range(row.steps):
        forward_pass(row, setting).backward()  # type: ignore[no-untyped-call]
        row.model.zero_grad()


def rows_flops(source: nn.Module, patches: int, layers: int) -> int:
    """Per image, of the rows of both models and of the target's backward to q and to k.

    They are products of elements and sums, which torch's counter leaves out.
    """
    return 4 * 2 * vit_info(source).heads * head_width(source) * patches * layers
