"""Which reading of a source's [cls] attention tells best what a picture is about? Against masks, without any training.

    python benchmarks/foreground.py --data photos --source dinov2_vits14.safetensors --size 126

Per layers whose attention is averaged and way of averaging its heads: how well the patches that hold 60 % of it overlap
the object's (intersection over union), what of the object they keep, what of them is object; the same with agreement:
only connected parts that hold a patch of the top 30 %; and how well the box of `attention_crop` overlaps the object's.
The averages: mean; compact, each head by the inverse variance of its attention over the picture; sharp, by the inverse
of its entropy, squared.
"""

import argparse
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes
from torchvision.transforms.v2.functional import gaussian_blur

from gta.data.loading import loader
from gta.data.reading import read_photos
from gta.data.transforms import ObjectViews
from gta.sources.info import source_info
from gta.sources.loading import load_source
from gta.tables import markdown
from gta.vit.attention_logits import AttentionMaps
from gta.vit.capture import run_and_capture
from gta.vit.foreground import attended_box, ranked
from gta.vit.structure import vit_info

MASS, SURE, SMOOTH = 0.6, 0.3, 0.8


def mean(maps: Tensor) -> Tensor:
    return torch.ones(maps.shape[:3])


def compact(maps: Tensor) -> Tensor:
    down, across = maps.shape[-2:]
    y, x = (torch.linspace(0, 1, n) for n in (down, across))
    share = maps / maps.sum((-2, -1), keepdim=True)
    rows, columns = share.sum(-1), share.sum(-2)
    spread = sum((p * of**2).sum(-1) - (p * of).sum(-1) ** 2 for p, of in ((rows, y), (columns, x)))
    return 1 / spread


def sharp(maps: Tensor) -> Tensor:
    share = (maps / maps.sum((-2, -1), keepdim=True)).flatten(-2)
    return 1 / torch.special.entr(share).sum(-1) ** 2


def agreeing(kept: Tensor, sure: Tensor) -> Tensor:
    parts, _ = ndimage.label(kept.numpy())
    parts = torch.from_numpy(parts)
    return torch.isin(parts, parts[sure & kept].unique()) & kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="with masks")
    parser.add_argument("--source", required=True)
    parser.add_argument("--size", type=int, default=126, help="px")
    parser.add_argument("--split", default="test")
    given = parser.parse_args()
    samples = [s for s in read_photos(given.data).split(given.split) if s.mask is not None]
    source = load_source(given.source, given.size).eval()
    vit, info = vit_info(source), source_info(source)
    views = ObjectViews(samples, info.image_size, info.mean, info.std)
    last = sorted({n for n in (1, 2, 3, 6, vit.depth) if n <= vit.depth})
    ways: tuple[Callable[[Tensor], Tensor], ...] = (mean, compact, sharp)
    found: dict[tuple[int, str], list[list[float]]] = {(n, way.__name__): [] for n in last for way in ways}
    for images, objects in loader(views, 32, 0):
        with torch.no_grad():
            (maps,) = run_and_capture(source, images, [AttentionMaps(vit, range(vit.depth))])
        grid = vit.patches(images)
        assert grid is not None
        of_layers = torch.stack(maps, 1).unflatten(-1, grid)  # (B, L, H, down, across)
        cover = F.adaptive_avg_pool2d((objects > 0).float()[:, None], grid)[:, 0]
        for n in last:
            for way in ways:
                weights = way(of_layers[:, -n:])[..., None, None]
                seen = (of_layers[:, -n:] * weights).flatten(1, 2).sum(1)
                seen = gaussian_blur(seen, [2 * round(3 * SMOOTH) + 1] * 2, [SMOOTH] * 2)
                found[n, way.__name__] += list(measures(ranked(seen), cover, objects > 0))
    rows = []
    for (n, name), of in found.items():
        names = ("IoU", "object kept", "of it object", "IoU, agreeing", "object kept, agreeing", "box IoU")
        rows.append({"last layers": n, "heads": name} | dict(zip(names, numbers(of), strict=True)))
    print(f"{len(samples)} images of {given.split}, {given.source} at {info.image_size} px\n\n{markdown(rows)}")


def measures(ranks: Tensor, cover: Tensor, objects: Tensor) -> Iterable[list[float]]:
    for rank, on, mask in zip(ranks, cover, objects, strict=True):
        if not mask.any():
            continue
        kept = rank <= MASS
        both = agreeing(kept, rank <= SURE)
        size = torch.tensor([mask.shape[1], mask.shape[0]] * 2)
        box = torch.tensor([attended_box(rank)]) * size
        tight = masks_to_boxes(mask[None]) + torch.tensor([0, 0, 1, 1])
        overlap = float(box_iou(box, tight))
        precise = float(on[kept].mean())
        yield [iou(kept, on), float(on[kept].sum() / on.sum()), precise, iou(both, on),
               float(on[both].sum() / on.sum()), overlap]  # fmt: skip


def iou(kept: Tensor, on: Tensor) -> float:
    inside = float(on[kept].sum())
    return inside / (float(kept.sum()) + float(on.sum()) - inside)


def numbers(of: list[list[float]]) -> list[str]:
    return [f"{value:.3f}" for value in torch.tensor(of).mean(0).tolist()]


if __name__ == "__main__":
    main()
