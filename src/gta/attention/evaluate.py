"""Measure a model's last-layer [cls] attention over a data set with masks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gta.attention.localisation import correct_localisation, entropy, pointing_game
from gta.attention.maps import last_attention, patch_grid
from gta.attention.metrics import object_mass
from gta.attention.segmentation import PROTOCOLS, object_jaccard, object_masks
from gta.data.loading import loader
from gta.data.sample import Sample
from gta.data.transforms import ObjectViews
from gta.devices import default_device
from gta.errors import GtaError
from gta.sources.info import source_info
from gta.sources.loading import load_source

BATCH = 32


def evaluate_attention(
    spec: str,
    samples: Sequence[Sample],
    protocol: str = "dino",
    image_size: int | None = None,
    heads: int | None = None,
    frame: str = "whole",
) -> dict[str, Any]:
    """Attention measures of a source or of a run's model.

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
    rules = PROTOCOLS[protocol]
    masked = [s for s in samples if s.mask is not None]
    if not masked:
        raise GtaError("none of the images has a mask: these measures need masks/SPLIT/CLASS/NAME.png, or cub, pets, …")
    if image_size is None and rules.image_size is not None:
        image_size = _nearest_size(load_source(spec, heads=heads), rules.image_size)
    model = load_source(spec, image_size, heads=heads).to(default_device())
    info = source_info(model)
    views = ObjectViews(masked, info.image_size, info.mean, info.std, frame)
    batches: list[dict[str, Tensor]] = []
    objects_seen = 0
    for images, objects in loader(views, BATCH, 0):
        _, attention = last_attention(model, images)
        grid = patch_grid(model, images)
        objects_seen += sum(len(object_masks(numbers)) for numbers in objects)
        batches.append(
            {
                "jaccard": object_jaccard(attention, objects, grid, rules),
                "pointing_game": pointing_game(attention, objects, grid),
                "corloc": correct_localisation(attention, objects, grid),
                "object_mass": object_mass(attention, (objects > 0).float(), grid),
                "entropy": entropy(attention),
            }
        )
    columns = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    present = ~columns["jaccard"].isnan()  # an object lies in the frame
    if not present.any():
        raise GtaError(f"no mask shows an object in the frame ({frame}) of its image.")
    return {
        "spec": spec,
        "protocol": protocol,
        "frame": frame,
        "image_size": info.image_size,
        "images": int(present.sum()),
        "objects": objects_seen,
        **{name: float(values[present].mean()) for name, values in columns.items()},
    }


def _nearest_size(model: nn.Module, side: int) -> int:
    """The multiple of a source's patch size, in px, that is nearest to `side`."""
    own = source_info(model).image_size
    patch = own // patch_grid(model, torch.zeros(1, 3, own, own))[0]
    return max(1, round(side / patch)) * patch
