"""Captures of what a ViT computes besides attention logits: outputs of its layers, and its classifier's input.

timm's `forward_intermediates` and `forward_head(pre_logits=True)` run the model once more; a capture reads the pass
that is made anyway, the target's with its gradient, so these are forward hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from gta.errors import GtaError
from gta.vit.structure import ViTInfo


class _Hooks:
    """A capture made of forward hooks; it reads one tensor per hook."""

    def __init__(self) -> None:
        self.on_complete: Callable[[Any], None] | None = None
        self.paused = False
        self._hooks = ExitStack()
        self._read: dict[int, Tensor] = {}

    def __exit__(self, *raised: object) -> None:
        self._hooks.close()

    def _keep(self, index: int, value: Any, wanted: int) -> None:
        if not self.paused:
            self._read[index] = value if isinstance(value, Tensor) else value[0]
            if self.on_complete is not None and len(self._read) == wanted:
                self.on_complete(self)


class LayerOutputs(_Hooks):
    """A capture of the outputs of some layers: per layer (B, tokens, width), prefix tokens included."""

    def __init__(self, modules: Sequence[nn.Module], layers: Sequence[int]) -> None:
        """
        Args:
            modules: one per layer of the model: `ViTInfo.attentions` (their outputs after the projection, before layer
                scale and residual) or `ViTInfo.blocks`.
            layers: ascending indices of those to read.
        """
        super().__init__()
        self._modules = {layer: modules[layer] for layer in layers}

    def __enter__(self) -> LayerOutputs:
        for layer, module in self._modules.items():

            def hook(module: nn.Module, inputs: Any, output: Any, layer: int = layer) -> None:
                self._keep(layer, output, len(self._modules))

            self._hooks.callback(module.register_forward_hook(hook).remove)
        return self

    def read(self, images: Tensor) -> list[Tensor]:
        if len(self._read) != len(self._modules):
            raise GtaError(f"read the outputs of {len(self._read)} layers, where {len(self._modules)} are wanted.")
        return [self._read[layer] for layer in self._modules]


class Features(_Hooks):
    """A capture of the last input of a timm model's classifier: the pooled, normalised features, (B, width).

    Models with two classifiers (distilled) give the first one's, the [cls] token's.
    """

    def __init__(self, vit: ViTInfo) -> None:
        super().__init__()
        classifier: Any = vit.model.get_classifier()  # type: ignore[operator]
        self._classifier = classifier[0] if isinstance(classifier, tuple) else classifier

    def __enter__(self) -> Features:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._keep(0, inputs, 1)

        self._hooks.callback(self._classifier.register_forward_pre_hook(hook).remove)
        return self

    def read(self, images: Tensor) -> Tensor:
        if not self._read:
            raise GtaError("the model did not run its classifier, so there are no features to read.")
        return self._read[0]
