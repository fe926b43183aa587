"""GTA: guided transfer of spatial attention (arXiv 2401.02656); the method itself is `gta.guidance`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from gta.guidance import Guidance
from gta.methods.base import Grid, Method, Step
from gta.vit.attention_logits import Rows
from gta.vit.capture import Capture, SourcePass
from gta.vit.structure import ViTInfo


@dataclass
class GTA(Method):
    """Hold the [cls] attention near the source's; its options are --weight, --layers, --distance, --guide and more."""

    weight: float | str = 10.0
    weight_budget: float = 0.1
    layers: str | Sequence[int] = "all"
    layer_weights: Sequence[float] | None = None
    free_heads: str | Sequence[tuple[int, int]] | None = None
    distance: str = "l2"
    temperature: float = 1.0
    guide: str = "logits"
    rows: Rows = "cls"
    source_precision: str = "same"
    source_compile: bool | str = False

    paper: ClassVar[str] = "arXiv 2401.02656"
    top_level_options: ClassVar[bool] = True
    grid: ClassVar[Grid] = {"weight": (0.1, 1, 10)}

    def attach(self, target: nn.Module, source: nn.Module) -> SourcePass:
        self.guidance = Guidance(
            target, source, self.weight, self.weight_budget, self.guide, self.distance, self.temperature, "mean",
            self.rows, self.layers, self.layer_weights, self.free_heads, self.source_precision, self.source_compile,
        )  # fmt: skip
        return self.guidance.source_pass

    def begin_step(self, done: int, steps: int) -> None:
        self.guidance.source_pass.step, self.guidance.source_pass.steps = done, steps

    def capture(self, vit: ViTInfo) -> Capture | None:
        return None if self.weight == 0 else self.guidance.capture(vit)

    def run_source(self, read: Callable[[Tensor], list[Any]], images: Tensor) -> list[Any]:
        return [self.guidance.source_pass.run(lambda images: list(read(images)[0]), images)]

    def penalty(self, target: Any, source: Any, step: Step) -> Tensor | None:
        return None if target is None else self.guidance.penalty(target, source, step.loss)

    def current_weight(self) -> float | Tensor:
        return self.guidance.current_weight

    def describe(self) -> dict[str, Any]:
        layers = self.layers if isinstance(self.layers, str) else ",".join(map(str, self.layers))
        chosen = {"guide": self.guide, "rows": self.rows, "distance": self.distance}
        compiled = bool(self.guidance.source_pass.compiles)
        return {"weight": self.weight, "layers": layers, **chosen, "source_compiled": compiled}
