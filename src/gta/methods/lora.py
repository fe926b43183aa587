"""LoRA (Hu et al. 2021, arXiv 2106.09685), through PEFT.

    W = W₀ + alpha / rank · B·A,   A (rank × in) random, B (out × rank) zero at the start

W₀ is frozen; A, B and the classifier train. After training B·A is merged into W, so that the result is a plain model.
Needs PEFT: pip install gta-vit[lora].
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from gta.errors import GtaError
from gta.methods.base import Grid, Method, check_number, classifier_of


@dataclass
class LoRA(Method):
    """Train low-rank additions to the attention's weights, and the classifier; needs PEFT.

    Args:
        rank: Rank of the additions, at least 1.
        alpha: Their scale is alpha / rank.
        dropout: Share of their inputs dropped in training, 0 to below 1.
        modules: Linear layers they are added to, by the end of their name, separated by commas: qkv, proj, fc1, fc2.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    modules: str = "qkv,proj"

    paper: ClassVar[str] = "Hu 2021, arXiv 2106.09685"
    freezes_parameters: ClassVar[bool] = True
    grid: ClassVar[Grid] = {"lr": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3), "lora.rank": (4, 16)}

    def __post_init__(self) -> None:
        check_number(self, "rank", 1)
        check_number(self, "alpha", 0, above=True)
        check_number(self, "dropout", 0, 0.99)

    def attach(self, target: nn.Module, source: nn.Module) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise GtaError(f"method lora needs the package peft ({error}): pip install peft") from error
        wanted = self.modules.split(",")
        chosen = [
            name
            for name, module in target.named_modules()
            if name.startswith("blocks.") and isinstance(module, nn.Linear) and name.rpartition(".")[2] in wanted
        ]
        if not chosen:
            inside = {n.rpartition(".")[2] for n, m in target.blocks.named_modules() if isinstance(m, nn.Linear)}  # type: ignore[union-attr,operator]
            raise GtaError(f"--lora.modules {self.modules} names no linear layer: use {', '.join(sorted(inside))}.")
        smallest = min(min(target.get_submodule(name).weight.shape) for name in chosen)  # type: ignore[arg-type,union-attr]
        if self.rank > smallest:
            raise GtaError(f"--lora.rank {self.rank} is more than these layers have, {smallest}: write a smaller one.")
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=chosen)  # type: ignore[arg-type]
        inject_adapter_in_model(config, target)
        for parameter in classifier_of(target):  # PEFT freezes all but its own
            parameter.requires_grad_(True)

    def finish(self, target: nn.Module) -> None:
        from peft.tuners.lora import LoraLayer

        adapted: list[tuple[str, Any]] = [(n, m) for n, m in target.named_modules() if isinstance(m, LoraLayer)]
        for name, module in adapted:
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(target.get_submodule(parent), child, module.get_base_layer())
        for parameter in target.parameters():
            parameter.requires_grad_(True)
