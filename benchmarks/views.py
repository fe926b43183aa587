"""What a training view costs a core: ours, and the same augmentation by others.

    python benchmarks/views.py --image_size 126

JPEGs of 500×375 px are drawn, decoded and kept; each way then makes a view of every image, in turn, on one thread: a
random crop of half the area or more, a flip, and two operations of RandAugment at magnitude 9. Ours reduces an image to
twice the size of a view where it is larger before it is kept. albumentations has no RandAugment: two of a dozen like
operations stand for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import v2

from gta.benchmark.setting import picture
from gta.data.sample import Sample
from gta.data.transforms import TrainViews

BICUBIC = v2.InterpolationMode.BICUBIC


def main(image_size: int = 224, images: int = 48, rounds: int = 9) -> None:
    """Print, way by way, the median milliseconds of a view, lowest and highest of the rounds."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        samples = photographs(Path(folder), images)
        opened = [Image.open(sample.path).convert("RGB") for sample in samples]
        views = TrainViews(samples, image_size, seed=0)
        ways: dict[str, Callable[[int], Any]] = {
            "decoding alone": lambda i: Image.open(samples[i].path).convert("RGB"),
            "ours": lambda i: views[i],
            **others(opened, image_size),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds + 1):
            for name, way in ways.items():
                began = time.perf_counter()
                for i in range(images):
                    way(i)
                seconds[name].append((time.perf_counter() - began) / images)
    for name, (_, *found) in seconds.items():  # in the first round images are decoded
        low, middle, high = (1e3 * of(found) for of in (min, median, max))
        print(f"{name:>32}: {middle:6.2f} ms [{low:.2f}, {high:.2f}]")


def others(opened: list[Image.Image], size: int) -> dict[str, Callable[[int], Any]]:
    """By name, from the number of an image to a view of it."""
    augment = [
        v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=BICUBIC),
        v2.RandomHorizontalFlip(),
        v2.RandAugment(num_ops=2, magnitude=9),
    ]
    on_pil, on_tensors = v2.Compose([*augment, v2.PILToTensor()]), v2.Compose(augment)
    tensors = [v2.functional.pil_to_tensor(image) for image in opened]
    timms = create_transform(
        size,
        is_training=True,
        scale=(0.5, 1.0),
        auto_augment="rand-m9-n2",
        interpolation="bicubic",
        use_prefetcher=True,
    )
    ways: dict[str, Callable[[int], Any]] = {
        "torchvision on Pillow's images": lambda i: on_pil(opened[i]),
        "torchvision on uint8 tensors": lambda i: on_tensors(tensors[i]),
        "timm": lambda i: timms(opened[i]),
    }
    try:
        import albumentations as A
        import cv2
    except ImportError:
        return ways
    cv2.setNumThreads(1)
    operations = [
        A.Affine(rotate=(-9, 9), p=1), A.Affine(shear={"x": (-8, 8)}, p=1), A.Affine(shear={"y": (-8, 8)}, p=1),
        A.Affine(translate_px={"x": (-15, 15)}, p=1), A.Affine(translate_px={"y": (-15, 15)}, p=1), A.Posterize(p=1),
        A.ColorJitter(p=1), A.Sharpen(p=1), A.Solarize(p=1), A.AutoContrast(p=1), A.Equalize(p=1), A.NoOp(p=1),
    ]  # fmt: skip
    crop = A.RandomResizedCrop((size, size), scale=(0.5, 1.0), interpolation=cv2.INTER_CUBIC)
    compose, arrays = A.Compose([crop, A.HorizontalFlip(), A.SomeOf(operations, n=2)]), [np.asarray(x) for x in opened]
    return {**ways, "albumentations": lambda i: torch.from_numpy(compose(image=arrays[i])["image"])}


def photographs(folder: Path, count: int) -> list[Sample]:
    generator, samples = torch.Generator().manual_seed(0), []
    for i in range(count):
        path = folder / f"{i}.jpg"
        v2.functional.to_pil_image(picture(500, 375, generator)).save(path, quality=90)
        samples.append(Sample(path, path.name, 0))
    return samples


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
