"""Measure a model's last-layer [cls] attention over a data set with masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gta.attention.localisation import correct_localisation, entropy, pointing_game
from gta.attention.maps import logits_and_rows, patch_grid
from gta.attention.metrics import numbers_in, object_mass, patch_attention
from gta.attention.segmentation import object_jaccard, protocol_of
from gta.data.loading import loader
from gta.data.sample import Sample
from gta.data.transforms import ObjectViews
from gta.errors import GtaError
from gta.sources.loading import load_source, source_info
from gta.vit.attention_logits import anatomy

BATCH = 32


def survey(
    spec: str,
    samples: Sequence[Sample],
    protocol: str = "dino",
    image_size: int | None = None,
    heads: int | None = None,
    frame: str = "whole",
) -> dict[str, Any]:
    """Attention measures of a source or a run.

    Args:
        spec: what `load_source` takes, or a run folder.
        samples: those without a mask are left out.
        protocol: a name of `PROTOCOLS`.
        image_size: side in px; None for the protocol's, or the one the weights were trained at.
        heads: attention heads, where the file does not say.
        frame: "whole" squeezes each image into a square, "square" takes its central one.

    Returns:
        images and objects measured, image_size, and the means over images of jaccard, pointing_game, corloc,
        object_mass and entropy. See docs/measures.md.

    Raises:
        GtaError: no sample has a mask with an object in its frame, or the model cannot be read.
    """
    rules = protocol_of(protocol)
    masked = [s for s in samples if s.mask is not None]
    if not masked:
        raise GtaError("none of the images has a mask: these measures need masks/SPLIT/CLASS/NAME.png, or cub, pets, …")
    model = load_attentive(spec, image_size or rules.image_size, heads, rounded=image_size is None)
    info = source_info(model)
    views = ObjectViews(masked, info.image_size, info.mean, info.std, frame)
    found: dict[str, list[Tensor]] = {}
    objects_seen = 0
    for images, objects in loader(views, BATCH, 0):
        attention, grid = last_attention(model, images), patch_grid(model, images)
        objects_seen += sum(len(numbers_in(o)) for o in objects)
        for name, values in (
            ("jaccard", object_jaccard(attention, objects, grid, rules)),
            ("pointing_game", pointing_game(attention, objects, grid)),
            ("corloc", correct_localisation(attention, objects, grid)),
            ("object_mass", object_mass(attention, (objects > 0).float(), grid)),
            ("entropy", entropy(attention)),
        ):
            found.setdefault(name, []).append(values)
    columns = {name: torch.cat(values) for name, values in found.items()}
    there = ~columns["jaccard"].isnan()  # an object lies in the frame
    if not there.any():
        raise GtaError(f"no mask shows an object in the frame ({frame}) of its image.")
    return {
        "spec": spec,
        "protocol": protocol,
        "frame": frame,
        "image_size": info.image_size,
        "images": int(there.sum()),
        "objects": objects_seen,
        **{name: float(values[there].mean()) for name, values in columns.items()},
    }


def load_attentive(spec: str, image_size: int | None, heads: int | None, rounded: bool = False) -> nn.Module:
    """A source, or a run's model, on the device there is.

    Args:
        spec: what `load_source` takes, or a run folder.
        image_size: side in px.
        heads: attention heads, where the file does not say.
        rounded: take the nearest multiple of the patch size.
    """
    if image_size is not None and rounded:
        model = load_source(spec, heads=heads)
        side = source_info(model).image_size
        patch = side // patch_grid(model, torch.zeros(1, 3, side, side))[0]
        image_size = max(1, round(image_size / patch)) * patch
    model = load_source(spec, image_size, heads=heads)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def last_attention(model: nn.Module, images: Tensor) -> Tensor:
    """Attention of the last layer's [cls] over patches, on the CPU.

    Args:
        model: a ViT with a [cls] token.
        images: (B, 3, height, width), normalised.

    Returns:
        (B, H, N) from `patch_attention`.
    """
    _, rows = logits_and_rows(model, images.to(next(model.parameters()).device))
    return patch_attention(rows[-1], anatomy(model).prefix_tokens).cpu()
