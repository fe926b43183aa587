"""Accuracy and attention of a model on a split.

The model computes in float32, so that it guesses what `gta predict` does; the source as in a float32 training, with
feed-forward layers in bf16 where the device is faster at it and drift differs by less than 1 %.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gta.acceleration.source_pass import FIRST_CHECKS, AdaptivePass
from gta.attention.maps import logits_and_rows, patch_grid
from gta.attention.metrics import jaccard, object_mass, patch_attention
from gta.data.loading import loader
from gta.data.sample import Sample
from gta.data.transforms import TestViews
from gta.sources.info import SourceInfo
from gta.training.accuracy import accuracies
from gta.vit.capture import evaluating
from gta.vit.outputs import Features
from gta.vit.structure import vit_info

Measures = dict[str, float | None]


@dataclass(frozen=True)
class Batch:
    """What a model and its source made of some images, in the order of their split.

    Attributes:
        images: (B, 3, size, size), normalised.
        labels: (B,) int64.
        logits: (B, classes) of the model.
        features: (B, width) of the source: its classifier's input.
        rows, source_rows: per layer (B, H, P + N), as from `logits_and_rows`.
        drift: per layer (B, H): the mean squared difference of their patch tokens.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    features: Tensor
    rows: list[Tensor]
    source_rows: list[Tensor]
    drift: list[Tensor]


def measure(
    model: nn.Module,
    source: nn.Module,
    info: SourceInfo,
    samples: Sequence[Sample],
    *,
    batch_size: int = 32,
    workers: int = 0,
    watch: Callable[[Batch], None] | None = None,
) -> Measures:
    """Accuracy of the model, its attention's quality and the source's, and the drift between them.

    Args:
        model, source: on one device; of the same depth, heads and token grid.
        info: image size and normalisation.
        samples: at least one.
        watch: called with every batch and what the models made of it.

    Returns:
        `top1`, `balanced_accuracy` and `macro_f1` (percent), `loss` (mean cross-entropy, nats), `drift`, and, over the
        samples with a mask (None where no sample has one), `object_mass`, `source_object_mass`, `jaccard`,
        `source_jaccard`. See docs/measures.md.
    """
    views = TestViews(samples, info.image_size, info.mean, info.std)
    device = next(model.parameters()).device
    prefixes = vit_info(model).prefix_tokens, vit_info(source).prefix_tokens
    drift, masked = 0.0, 0
    said: list[Tensor] = []
    captured = Features(vit_info(source))
    source_pass = AdaptivePass(source, vit_info(source))
    source_pass.step = FIRST_CHECKS[-1]  # decide in the first batch

    def read(images: Tensor) -> list[Any]:
        with captured:
            _, rows = logits_and_rows(source, images)
        return [*rows, captured.read(images)]

    sums = dict.fromkeys(("object_mass", "source_object_mass", "jaccard", "source_jaccard"), 0.0)
    for images, labels, masks in loader(views, batch_size, workers):
        images = images.to(device)
        logits, rows = logits_and_rows(model, images)
        *source_rows, features = source_pass.run(read, images)
        logits = logits.float().cpu()
        said.append(logits)
        apart = _drift(rows, source_rows, prefixes[0])
        mean = torch.stack(apart).mean()
        drift += float(mean) * len(images)
        source_pass.check(partial(_mean_drift, rows, prefixes[0]), mean)
        if watch is not None:
            watch(Batch(images, labels, logits, features, rows, source_rows, apart))
        has = ~masks.isnan().any(-1).any(-1)
        if has.any():
            masked += int(has.sum())
            grid, mask = patch_grid(model, images), masks[has].to(device)
            for which, prefix, last in zip(("", "source_"), prefixes, (rows[-1], source_rows[-1]), strict=True):
                attention = patch_attention(last[has.to(device)], prefix)
                sums[which + "object_mass"] += float(object_mass(attention, mask, grid).sum())
                sums[which + "jaccard"] += float(jaccard(attention, mask, grid).sum())
    return {
        **of_classes(torch.cat(said), samples, batch_size),
        "drift": drift / len(samples),
        **{k: v / masked if masked else None for k, v in sums.items()},
    }


def classify(
    model: nn.Module, info: SourceInfo, samples: Sequence[Sample], *, batch_size: int = 32, workers: int = 0
) -> Tensor:
    """The model's logits (n, classes), float32 on the CPU, of at least one sample; nothing is read of its attention."""
    device = next(model.parameters()).device
    views = TestViews([replace(sample, mask=None) for sample in samples], info.image_size, info.mean, info.std)
    with evaluating(model), torch.inference_mode():
        said = [model(images.to(device)).float().cpu() for images, *_ in loader(views, batch_size, workers)]
    return torch.cat(said)


def of_classes(logits: Tensor, samples: Sequence[Sample], batch_size: int = 32) -> Measures:
    """`accuracies` of what a model says of the samples, (n, classes), and its `loss`, mean cross-entropy in nats."""
    labels = torch.tensor([sample.label for sample in samples])
    batches = zip(logits.split(batch_size), labels.split(batch_size), strict=True)
    loss = sum(float(cross_entropy(said, of, reduction="sum")) for said, of in batches)
    return {**accuracies(labels, logits.argmax(-1)), "loss": loss / len(labels)}


def _mean_drift(rows: list[Tensor], prefix: int, read: list[Any]) -> Tensor:
    """From what was read of the source."""
    return torch.stack(_drift(rows, read[:-1], prefix)).mean()


def _drift(rows: list[Tensor], source_rows: list[Tensor], prefix: int) -> list[Tensor]:
    """Per layer (B, H)."""
    return [(t - s)[..., prefix:].square().mean(-1) for t, s in zip(rows, source_rows, strict=True)]
