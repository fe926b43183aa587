"""The world as an ordinary data folder: train/val/test/masks, with a shortcut of chosen strength."""

import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gta.errors import GtaError
from gta.files import atomic_folder
from gta.worlds.butterflies import DOWNSTREAM, PRETRAINING, render, scenes, species
from gta.worlds.options import WorldOptions
from gta.worlds.sensors import seen_by

_CHUNK = 256  # images drawn at once


def write_world(options: WorldOptions) -> None:
    """Write a data folder; the same options give the same files.

    Raises:
        GtaError: `options.out` exists and is not an empty folder.
    """
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GtaError(f"--out {out} is there already: give a new folder.")
    with atomic_folder(out) as new:
        _write(options, new)


def _write(options: WorldOptions, folder: Path) -> None:
    classes = options.classes
    kinds = species(classes, (PRETRAINING if options.pretraining else DOWNSTREAM) + options.seed)
    grounds = scenes(2 * classes, options.seed)  # the first half for train and val, the second for test
    for number, split in enumerate(("train", "val", "test")):
        count: int = getattr(options, split)
        generator = torch.Generator().manual_seed(4 * options.seed + number)
        labels = torch.arange(classes).repeat_interleave(count)
        others = torch.randint(classes, labels.shape, generator=generator)  # grounds, or species, at random
        if options.label == "ground":
            shown, places = others, labels
        elif options.label == "both":
            shown, places = labels % math.isqrt(classes), labels // math.isqrt(classes)
        else:
            follows = torch.rand(labels.shape, generator=generator) < options.spurious if split == "train" else False
            shown, places = labels, torch.where(torch.as_tensor(follows), labels, others)
            places = places + classes if split == "test" else places
        for start in range(0, len(labels), _CHUNK):
            part = slice(start, start + _CHUNK)
            seed = int(torch.randint(2**62, (1,), generator=generator))
            images, masks = render(kinds, shown[part], grounds, places[part], options.size, seed)
            images = seen_by(options.sensor, images)
            for i, (image, mask) in enumerate(zip(images, masks, strict=True), start):
                name = f"{options.label}-{i // count:02}/{i % count:03}.png"
                _save(image.permute(1, 2, 0), folder / split / name)
                _save(mask.to(torch.uint8) * 255, folder / "masks" / split / name)


def _save(pixels: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path)
