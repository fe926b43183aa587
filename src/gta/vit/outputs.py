"""Read what a ViT computes besides its attention rows: layer outputs, classifier input, and queries and keys.

Each is a context manager around a forward pass. Layer outputs and features come from plain forward hooks; queries and
keys are taken where `gta.vit.attention_logits` takes rows, at the call of fused attention, which goes on undisturbed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gta.errors import GtaError
from gta.vit.structure import unwrapped

Kind = Literal["msa", "block"]


class _Enough(BaseException):
    """Raised inside a forward pass that has given all the outputs it was run for."""


class LayerOutputs:
    """While entered, collects the outputs of a model's attention modules or of its blocks.

    Attributes:
        read: per layer that has run, its output, (B, tokens, width) with prefix tokens.
    """

    def __init__(self, model: nn.Module, kind: Kind, layers: Sequence[int], stop: bool = False) -> None:
        """
        Args:
            model: a ViT of timm.
            kind: "msa" for the attention modules' outputs (after their projection, before layer scale and residual),
                "block" for the blocks'.
            layers: ascending indices.
            stop: leave the forward pass (raising `_Enough`) after the last of them.
        """
        blocks: Any = unwrapped(model).blocks
        self._modules = {layer: blocks[layer].attn if kind == "msa" else blocks[layer] for layer in layers}
        self._layers, self._stop = tuple(layers), stop
        self._hooks = ExitStack()
        self.read: dict[int, Tensor] = {}

    def outputs(self) -> list[Tensor]:
        """After the forward pass, one (B, tokens, width) tensor per layer, in layer order."""
        if len(self.read) != len(self._layers):
            raise GtaError(f"read the outputs of {len(self.read)} layers, where {len(self._layers)} are wanted.")
        return [self.read[layer] for layer in self._layers]

    def __enter__(self) -> LayerOutputs:
        self.read.clear()
        for layer, module in self._modules.items():

            def hook(module: nn.Module, inputs: Any, output: Tensor, layer: int = layer) -> None:
                self.read[layer] = output
                if self._stop and layer == self._layers[-1]:
                    raise _Enough

            self._hooks.callback(module.register_forward_hook(hook).remove)
        return self

    def __exit__(self, *raised: object) -> None:
        self._hooks.close()


def read_outputs(model: nn.Module, images: Tensor, kind: Kind, layers: Sequence[int]) -> list[Tensor]:
    """The outputs of `layers` (ascending), without autograd; runs the model no further than the last of them.

    Returns:
        One (B, tokens, width) tensor per layer.
    """
    seen = LayerOutputs(model, kind, layers, stop=True)
    try:
        with torch.no_grad(), seen:
            model(images)
    except _Enough:
        pass
    return seen.outputs()


class Features:
    """While entered, keeps the last input of the model's classifier: the pooled, normalised features.

    Models with two classifiers (distilled) give the first one's, the [cls] token's.
    """

    def __init__(self, model: nn.Module) -> None:
        classifier: Any = unwrapped(model).get_classifier()  # type: ignore[operator]
        self._classifier = classifier[0] if isinstance(classifier, tuple) else classifier
        self._hooks = ExitStack()
        self._read: Tensor | None = None

    def features(self) -> Tensor:
        """After the forward pass, (B, width)."""
        if self._read is None:
            raise GtaError("the model did not run its classifier, so there are no features to read.")
        return self._read

    def __enter__(self) -> Features:
        self._read = None

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._read = inputs[0]

        self._hooks.callback(self._classifier.register_forward_pre_hook(hook).remove)
        return self

    def __exit__(self, *raised: object) -> None:
        self._hooks.close()


def read_features(model: nn.Module, images: Tensor) -> Tensor:
    """(B, width) features of a model, without autograd."""
    seen = Features(model)
    with torch.no_grad(), seen:
        model(images)
    return seen.features()
