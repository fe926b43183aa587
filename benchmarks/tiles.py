"""A data set without objects from one whose objects have masks: tiles of scenes.

    python benchmarks/tiles.py --data garden --source dinov2_vits14.safetensors --out tiles
    gta train --data tiles --source dinov2_vits14.safetensors --image-size 98 --out runs/tiles

A tile is the largest square of a training picture beside the box of its object, and its class is the picture's: where
the background follows the class, that is the scene it was cut from. Classes with the scene of an earlier one (mean
features of the frozen source, less their mean, nearer than --same, cosine) are left out. The first half of a class's
tiles is train, the rest test; --swap turns that round. With --objects an object of any class, drawn at random, lies on
each: then the class is the background, and the object says nothing.
"""

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import gta
from gta.data.transforms import test_view
from gta.sources.info import source_info


def tile(picture: Image.Image, mask: Image.Image) -> Image.Image | None:
    """The largest square left, right, above or below the object, in the middle of its strip; None below 48 px."""
    ys, xs = np.nonzero(np.asarray(mask.convert("L")) > 127)
    width, height = picture.size
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    strips = [(0, 0, left, height), (right, 0, width, height), (0, 0, width, top), (0, bottom, width, height)]
    x0, y0, x1, y1 = max(strips, key=lambda s: min(s[2] - s[0], s[3] - s[1]))
    side = min(x1 - x0, y1 - y0)
    if side < 48:
        return None
    x, y = (x0 + x1 - side) // 2, (y0 + y1 - side) // 2
    return picture.crop((int(x), int(y), int(x + side), int(y + side)))


def cut_out(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The object, transparent around it."""
    picture.putalpha(mask.convert("L"))
    return picture.crop(mask.getbbox())


def covered(image: Image.Image, cut: Image.Image, chance: random.Random) -> Image.Image:
    """The tile at 224 px with the object somewhere on it, half as high or wide."""
    image = image.resize((224, 224), Image.Resampling.BICUBIC)
    cut.thumbnail((112, 112))
    image.paste(cut, (chance.randint(0, 224 - cut.width), chance.randint(0, 224 - cut.height)), cut)
    return image


@torch.no_grad()
def scene(source: torch.nn.Module, tiles: list[Image.Image], view: Callable[..., Tensor]) -> Tensor:
    features = source(torch.stack([view(t) for t in tiles]))
    return F.normalize(features.mean(0), dim=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--same", type=float, default=0.5)
    parser.add_argument("--objects", action="store_true")
    parser.add_argument("--swap", action="store_true")
    given = parser.parse_args()
    source = gta.load_source(given.source, image_size=98)
    info = source_info(source)
    view = test_view(info.image_size, info.mean, info.std)
    found: dict[str, list[Image.Image]] = {}
    cuts: list[Image.Image] = []
    for folder in sorted((given.data / "train").iterdir()):
        pictures = sorted(folder.iterdir())
        masks = [given.data / "masks" / "train" / folder.name / f"{p.stem}.png" for p in pictures]
        both = [(Image.open(p).convert("RGB"), Image.open(m)) for p, m in zip(pictures, masks, strict=True)]
        tiles = [t for picture, mask in both if (t := tile(picture, mask))]
        cuts += [cut_out(picture, mask) for picture, mask in both]
        if len(tiles) >= 6:
            found[folder.name] = tiles
    scenes = torch.stack([scene(source, tiles, view) for tiles in found.values()])
    alike = F.normalize(scenes - scenes.mean(0)) @ F.normalize(scenes - scenes.mean(0)).T > given.same
    kept: list[int] = []
    chance = random.Random(0)
    for index, (name, tiles) in enumerate(found.items()):
        if alike[index, kept].any():
            continue
        kept.append(index)
        for i, image in enumerate(tiles):
            split = "train" if (i < len(tiles) // 2) != given.swap else "test"
            to = given.out / split / name / f"{i:03}.png"
            to.parent.mkdir(parents=True, exist_ok=True)
            (covered(image, chance.choice(cuts), chance) if given.objects else image).save(to)
    print(f"{len(kept)} scenes in {given.out}")


if __name__ == "__main__":
    main()
