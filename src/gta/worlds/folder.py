"""The world as an ordinary data folder: train/val/test/masks, with a shortcut of chosen strength.

In train the ground follows the class with probability `spurious`; in val the training grounds are drawn at random;
in test every ground is new. A model that looks at the ground loses.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gta.errors import GtaError
from gta.worlds.butterflies import DOWNSTREAM, PRETRAINING, render, scenes, species

_CHUNK = 256  # images drawn at once


def write_world(
    out: str | Path,
    *,
    classes: int = 12,
    train: int = 8,
    val: int = 4,
    test: int = 20,
    size: int = 96,
    spurious: float = 0.9,
    seed: int = 0,
    pretraining: bool = False,
) -> None:
    """Write a data folder; the same arguments give the same files.

    Args:
        out: folder to make.
        classes: species, at least 2.
        train, val, test: images per class; 0 leaves a split out (not train).
        size: side of the images in px.
        spurious: probability, 0 to 1, that a training image has the ground of its class; otherwise any of the
            training grounds.
        seed: of species, grounds and images.
        pretraining: draw from the species that the embedded source was pre-trained on, instead of those kept for
            downstream use.

    Raises:
        GtaError: an argument out of range, or `out` is there already.
    """
    out = Path(out)
    for name, value, fine in (
        ("classes", classes, classes >= 2),
        ("train", train, train >= 1),
        ("val", val, val >= 0),
        ("test", test, test >= 0),
        ("size", size, size >= 8),
        ("spurious", spurious, 0 <= spurious <= 1),
        ("seed", seed, 0 <= seed < DOWNSTREAM),
    ):
        if not fine:
            raise GtaError(f"--{name} {value} is out of range: see gta world --help.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GtaError(f"--out {out} is there already: give a new folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}.new-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    kinds = species(classes, (PRETRAINING if pretraining else DOWNSTREAM) + seed)
    grounds = scenes(2 * classes, seed)  # the first half for train and val, the second for test
    for number, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        generator = torch.Generator().manual_seed(4 * seed + number)
        labels = torch.arange(classes).repeat_interleave(count)
        places = torch.randint(classes, labels.shape, generator=generator)
        if split == "train":
            places = torch.where(torch.rand(labels.shape, generator=generator) < spurious, labels, places)
        elif split == "test":
            places = places + classes
        for start in range(0, len(labels), _CHUNK):
            part = slice(start, start + _CHUNK)
            drawn = int(torch.randint(2**62, (1,), generator=generator))
            images, masks = render(kinds, labels[part], grounds, places[part], size, drawn)
            for i, (image, mask) in enumerate(zip(images, masks, strict=True), start):
                name = f"species-{i // count:02}/{i % count:03}"
                _save(image.permute(1, 2, 0), new / split / f"{name}.png")
                _save(mask.to(torch.uint8) * 255, new / "masks" / split / f"{name}.png")
    if out.exists():
        out.rmdir()
    new.rename(out)


def _save(pixels: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path)
