"""Accuracy and attention of a model on a split, in float32."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gta.attention.maps import logits_and_rows, patch_grid
from gta.attention.metrics import jaccard, object_mass, patch_attention
from gta.data.loading import loader
from gta.data.sample import Sample
from gta.data.transforms import TestViews
from gta.sources.info import SourceInfo
from gta.vit.structure import vit_info

Measures = dict[str, float | None]


def validate(
    model: nn.Module, info: SourceInfo, samples: Sequence[Sample], *, batch_size: int = 32, workers: int = 0
) -> tuple[float, float]:
    """Share of samples whose first guess is right, in percent, and the mean cross-entropy (nats)."""
    views = TestViews(samples, info.image_size, info.mean, info.std)
    device = next(model.parameters()).device
    model.eval()
    hits, loss = 0, 0.0
    with torch.no_grad():
        for images, labels, _ in loader(views, batch_size, workers):
            logits = model(images.to(device)).cpu()
            hits += int((logits.argmax(-1) == labels).sum())
            loss += float(cross_entropy(logits, labels, reduction="sum"))
    return 100 * hits / len(samples), loss / len(samples)


def measure(
    model: nn.Module,
    source: nn.Module,
    info: SourceInfo,
    samples: Sequence[Sample],
    *,
    batch_size: int = 32,
    workers: int = 0,
) -> Measures:
    """Accuracy of the model, its attention's quality and the source's, and the drift between them.

    Args:
        model, source: on one device; of the same depth, heads and token grid.
        info: image size and normalisation.
        samples: at least one.

    Returns:
        `top1` (percent), `drift`, and, over the samples with a mask (None where no sample has one),
        `object_mass`, `source_object_mass`, `jaccard`, `source_jaccard`. See docs/measures.md.
    """
    views = TestViews(samples, info.image_size, info.mean, info.std)
    device = next(model.parameters()).device
    prefixes = vit_info(model).prefix_tokens, vit_info(source).prefix_tokens
    hits, drift, masked = 0, 0.0, 0
    sums = dict.fromkeys(("object_mass", "source_object_mass", "jaccard", "source_jaccard"), 0.0)
    for images, labels, masks in loader(views, batch_size, workers):
        images = images.to(device)
        logits, rows = logits_and_rows(model, images)
        _, source_rows = logits_and_rows(source, images)
        hits += int((logits.argmax(-1).cpu() == labels).sum())
        drift += len(labels) * _drift(rows, source_rows, prefixes[0])
        has = ~masks.isnan().any(-1).any(-1)
        if has.any():
            masked += int(has.sum())
            grid, mask = patch_grid(model, images), masks[has].to(device)
            for which, prefix, last in zip(("", "source_"), prefixes, (rows[-1], source_rows[-1]), strict=True):
                attention = patch_attention(last[has.to(device)], prefix)
                sums[which + "object_mass"] += float(object_mass(attention, mask, grid).sum())
                sums[which + "jaccard"] += float(jaccard(attention, mask, grid).sum())
    return {
        "top1": 100 * hits / len(samples),
        "drift": drift / len(samples),
        **{k: v / masked if masked else None for k, v in sums.items()},
    }


def _drift(rows: list[Tensor], source_rows: list[Tensor], prefix: int) -> float:
    per_layer = [(t - s)[..., prefix:].square().mean() for t, s in zip(rows, source_rows, strict=True)]
    return float(torch.stack(per_layer).mean())
