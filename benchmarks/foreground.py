"""Which reading of a source's [cls] attention tells best what a picture is about? Without any training.

    python benchmarks/foreground.py --data photos --source dinov2_vits14.safetensors --look-size 126 --image-size 98

For the last layers whose attention is averaged and ways of averaging their heads: how many images of a split the frozen
source tells the class of by the crops of `attention_crop` (ridge regression on its features, learned from train), and,
of the images with masks, how well the crop's box overlaps the object's and the patches that hold 60 % of the attention
overlap the object (intersection over union), what of the object these keep and what of them is object. The averages:
mean; compact, the rule of `gta.vit.foreground`; sharp, each head by the inverse of its squared entropy.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes

from gta.data.loading import loader
from gta.data.reading import read_photos
from gta.data.sample import Sample
from gta.data.transforms import LookViews, ObjectViews, TestViews
from gta.sources.info import source_info
from gta.sources.loading import load_source
from gta.tables import markdown
from gta.training.auto import ridge
from gta.vit.attention_logits import AttentionMaps
from gta.vit.capture import run_and_capture
from gta.vit.foreground import attended_box, compact_mean, ranked, smoothed
from gta.vit.structure import vit_info

MASS = 0.6


def mean(maps: Tensor) -> Tensor:
    return maps.mean((1, 2))


def sharp(maps: Tensor) -> Tensor:
    share = (maps / maps.sum((-2, -1), keepdim=True)).flatten(-2)
    weights = torch.special.entr(share).sum(-1) ** -2
    return (maps * weights[..., None, None]).sum((1, 2))


WAYS = {"mean": mean, "compact": compact_mean, "sharp": sharp}
Reading = tuple[int, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--look-size", type=int, default=126, help="px of the images it looks at")
    parser.add_argument("--image-size", type=int, default=98, help="px of the crops")
    parser.add_argument("--split", default="val")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3, 6], help="last ones, averaged")
    given = parser.parse_args()
    photos = read_photos(given.data)
    splits = [photos.split("train"), photos.split(given.split)]
    looks, sees = (load_source(given.source, size).eval() for size in (given.look_size, given.image_size))
    read = [ranks(looks, samples, given.layers) for samples in splits]
    labels = [torch.tensor([sample.label for sample in samples]) for samples in splits]
    masks = [objects for _, objects in ObjectViews(splits[1], given.look_size, (0.5,) * 3, (0.5,) * 3)]
    rows = []
    for reading in read[0]:
        boxes = [[attended_box(rank, aspect=aspect) for rank, aspect in of[reading]] for of in read]
        crops = [crop(sees, samples, of) for samples, of in zip(splits, boxes, strict=True)]
        told = (ridge(crops[0], labels[0], crops[1]) == labels[1]).double().mean()
        row = {"last layers": reading[0], "heads": reading[1], "told by the crop": f"{100 * told:.1f}"}
        if any((mask > 0).any() for mask in masks):
            row |= overlap([rank for rank, _ in read[1][reading]], boxes[1], masks)
        rows.append(row)
    print(f"{len(splits[1])} images of {given.split}\n\n{markdown(rows)}")


def ranks(source: torch.nn.Module, samples: Sequence[Sample], last: Sequence[int]) -> dict[Reading, list]:
    """By reading, of each image its rank (h, w) and its width over its height."""
    vit, info = vit_info(source), source_info(source)
    found: dict[Reading, list] = {}
    for images, aspects in loader(LookViews(samples, info.image_size, info.mean, info.std), 32, 0):
        (layers,) = run_and_capture(source, images, [AttentionMaps(vit, range(vit.depth))])
        maps = torch.stack(layers, 1).unflatten(-1, vit.patches(images))
        for n in last:
            for name, way in WAYS.items():
                rank = ranked(smoothed(way(maps[:, -n:])))
                found.setdefault((n, name), []).extend(zip(rank, aspects.tolist(), strict=True))
    return found


def crop(source: torch.nn.Module, samples: Sequence[Sample], boxes: Sequence[tuple[float, ...]]) -> Tensor:
    """The source's features of the crops, (n, width) float64."""
    info = source_info(source)
    boxed = [replace(sample, mask=None, box=box) for sample, box in zip(samples, boxes, strict=True)]
    views = loader(TestViews(boxed, info.image_size, info.mean, info.std, frame="whole"), 32, 0)
    with torch.inference_mode():
        return torch.cat([source(images).double() for images, *_ in views])


def overlap(found: Sequence[Tensor], boxes: Sequence[tuple[float, ...]], masks: Sequence[Tensor]) -> dict[str, str]:
    sums, n = torch.zeros(4), 0
    for rank, box, mask in zip(found, boxes, masks, strict=True):
        if not (objects := mask > 0).any():
            continue
        size = torch.tensor([mask.shape[1], mask.shape[0]] * 2)
        tight = masks_to_boxes(objects[None]) + torch.tensor([0, 0, 1, 1])
        cover = F.adaptive_avg_pool2d(objects.float()[None], rank.shape)[0]
        kept = rank <= MASS
        inside, held = float(cover[kept].sum()), float(kept.sum())
        union = held + float(cover.sum()) - inside
        of = [float(box_iou(torch.tensor([box]) * size, tight)), inside / union, inside / float(cover.sum())]
        sums, n = sums + torch.tensor([*of, inside / held]), n + 1
    names = ("box IoU", "patches IoU", "of the object", "is object")
    return {name: f"{value:.2f}" for name, value in zip(names, (sums / n).tolist(), strict=True)}


if __name__ == "__main__":
    main()
