"""Read what a ViT computes besides its attention rows: layer outputs, classifier input, and queries and keys.

Each is a context manager around a forward pass. Layer outputs and features come from plain forward hooks; queries and
keys are taken where `gta.taps` takes rows, at the call of fused attention, which goes on undisturbed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gta.anatomy import unwrapped
from gta.errors import GtaError

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


class AttentionLogits(TorchFunctionMode):
    """While entered, keeps every layer's queries and keys; `maps` makes the N×N logits afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._read: list[tuple[Tensor, Tensor, float | None]] = []

    def maps(self, depth: int) -> list[Tensor]:
        """Scaled pre-softmax logits of all queries over all keys, per layer (B, H, P + N, P + N) float32."""
        if len(self._read) != depth:
            raise GtaError(
                f"read the queries and keys of {len(self._read)} layers, where the model has {depth}. It must use "
                "fused attention: set `fused_attn = True` on its attention layers, or unset TIMM_FUSED_ATTN=0."
            )
        return [_scaled_product(*read) for read in self._read]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = args[:2]
            if kwargs.get("attn_mask", args[3] if len(args) > 3 else None) is not None:
                raise GtaError(
                    "models that add a mask or bias to their attention logits cannot be read. Use one without."
                )
            if query.shape[-2] == key.shape[-2]:  # else an attention-pooling head, not a layer
                self._read.append((query, key, kwargs.get("scale")))
        return func(*args, **kwargs)


def _scaled_product(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    with torch.autocast(query.device.type, enabled=False):  # float32 as the rows of gta.taps are
        scaled = query.float() * (query.shape[-1] ** -0.5 if scale is None else scale)
        return scaled @ key.float().transpose(-2, -1)
