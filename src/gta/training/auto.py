"""`--method auto`: what is done where nobody says what, and the two decisions that are taken from the data.

The recipe is plain fine-tuning with layer decay that *uses* the source's attention (docs/default.md has the runs that
chose it): the pictures are cropped to where the source looks (`attention_crop`), and half of the training views have
the background of another picture (`background_swap`). Both suppose that the class is in what the source looks at. That
is asked of the frozen source before training: ridge regression of the class on its features, of the whole pictures, of
the crops, of what it looks at on other pictures' backgrounds, and of the backgrounds alone. The answers are of the
validation images where there are enough of them, and otherwise of each training image by all others (leave-one-out, in
closed form). Where background and class go together in training, training images cannot tell whether that misleads: so
the background must tell much more than the object before it is believed, and than the crop, which shows both. Where
there is no object the crop is a piece of the same surface and tells as much as the whole; that shows in the source's
attention: it is then spread as widely as over the same picture with its patches shuffled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gta.data.loading import loader
from gta.data.reading import Photos
from gta.data.sample import Sample
from gta.data.transforms import LookViews, TestViews
from gta.devices import bf16_where_fast, default_device, on_device
from gta.methods import METHODS
from gta.methods.background_swap import background
from gta.sources.info import source_info
from gta.training.look import Look
from gta.training.options import TrainOptions
from gta.vit.foreground import spread
from gta.vit.structure import vit_info

AUTO = "auto"
WIDTH, LR = 384, 1e-4  # of a ViT-S; narrower models take larger steps, by the square of their width
LAYER_DECAY = 0.8
ANEW, ANEW_DECAY = 2.5, 0.9  # times the learning rate, and decay, where the source does not look at what tells classes
CROP, SWAP = "attention_crop", "background_swap"
# Of what backgrounds tell: where objects and crops tell less, the class is in the background. Of 14 sets whose class is
# the object crops told at least 0.94 of it, of 13 whose class is the background at most 0.80 (docs/default.md).
OBJECT, CROP_OF = 0.75, 0.87
# How spread the attention is, of how spread it is with the patches shuffled: above this the source sees no objects.
# 0.37 to 0.71 on sets with objects, 0.90 to 1.11 on sets without, by two sources (docs/default.md).
SCATTERED = 0.8
CROPPED = 0.75  # of what whole pictures tell: the least that crops must, by images that share training's backgrounds
MOST, SHUFFLED = 1024, 64  # training images that are asked, and that are shuffled; more tell little more
FEWEST = 30  # validation images that are enough to be asked
RIDGE = 0.3  # in mean squared lengths of the features

_Looked = tuple[Sequence[Sample], list[Tensor], list[float]]  # images, what look.ranks gives of them


@dataclass(frozen=True)
class Decision:
    """What auto decided.

    Attributes:
        method, settings, lr, layer_decay: as in `TrainOptions`.
        reasons: sentences.
        accuracy: of the frozen source in percent: whole, crop, object, background.
    """

    method: str
    lr: float
    layer_decay: float
    reasons: list[str]
    accuracy: dict[str, float]

    def applied(self, options: TrainOptions) -> TrainOptions:
        """The options with what was decided."""
        return replace(options, method=self.method, lr=self.lr, layer_decay=self.layer_decay)


def decide(options: TrainOptions, photos: Photos, source: Any, look: Look, workers: int = 0) -> Decision:
    """What to do with these photographs.

    Args:
        options: `lr` and `layer_decay` are kept where they are given.
        source: from `gta.load_source`, of the training's image size.
        look: says where to look in them.
    """
    train = _seeded_part(photos.train, options.seed)
    asked = photos.val if len(photos.val) >= FEWEST and not photos.val_held_out else ()
    with (
        on_device(source, default_device()),
        on_device(look.model, default_device()),
        torch.random.fork_rng(devices=()),
    ):
        torch.manual_seed(options.seed)  # of the backgrounds that are drawn: the same run decides the same
        looked = [(samples, *look.ranks(samples, workers)) for samples in (train, asked) if samples]
        right = _right(looked, source, workers)
        accuracy = {kind: 100 * float(found.double().mean()) for kind, found in right.items()}
        behind = accuracy["object"] < OBJECT * accuracy["background"] and _ahead(right, "background", "object")
        outside = accuracy["crop"] < CROP_OF * accuracy["background"] and _ahead(right, "background", "crop")
        scatter = scattered(train, look, workers) if behind and not outside else 0.0
    elsewhere = behind and (outside or scatter > SCATTERED)
    how = f"{len(asked)} validation images" if asked else f"{len(train)} training images, each by the others"
    reasons = [
        f"of {how}, the frozen source tells the class of {accuracy['object']:.0f} % by what it looks at, of "
        f"{accuracy['background']:.0f} % by the background, of {accuracy['whole']:.0f} % by all, of "
        f"{accuracy['crop']:.0f} % by the crop"
    ]
    methods = []
    if elsewhere:
        where = "the class is in the background"
        if not outside:
            where = f"the source sees no objects (its attention is {scatter:.2f} as spread as in shuffled pictures)"
        reasons.append(f"{where}: neither crops nor other backgrounds, and larger steps, in lower layers too")
    else:
        least = accuracy["whole"] - _error(right, "whole", "crop") if asked else CROPPED * accuracy["whole"]
        if accuracy["crop"] >= least:
            methods.append(CROP)
            reasons.append("the crops tell enough: cropped to where the source looks")
        else:
            reasons.append(f"the crops tell too little, less than {least:.0f} %: not cropped")
        methods.append(SWAP)
        reasons.append("the class is in what the source looks at: other backgrounds in half of the views")
    lr = options.lr
    if lr is None:
        lr = LR * (WIDTH / source.num_features) ** 2 * (ANEW if elsewhere else 1.0)
        reasons.append(f"learning rate {lr:.3g}, by the source's width of {source.num_features}")
    decay = options.layer_decay
    if decay is None:
        decay = ANEW_DECAY if elsewhere else LAYER_DECAY
    return Decision("+".join(methods) or "plain", lr, decay, reasons, accuracy)


def _error(right: dict[str, Tensor], one: str, other: str) -> float:
    """The standard error, in percent, of the difference between two shares of the same images."""
    difference = right[one].double() - right[other].double()
    return 100 * float(difference.square().sum().sqrt()) / len(difference)


def _ahead(right: dict[str, Tensor], one: str, other: str) -> bool:
    """By more than a standard error."""
    ahead = 100 * float((right[one].double() - right[other].double()).mean())
    return ahead > _error(right, one, other)


def _seeded_part(samples: Sequence[Sample], seed: int) -> Sequence[Sample]:
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:MOST]
    return [samples[i] for i in order]


def _right(looked: Sequence[_Looked], source: Any, workers: int) -> dict[str, Tensor]:
    """By kind of picture, which of the asked images (of the training images without any) are named rightly: bool."""
    kinds = [_features(*each, source, workers) for each in looked]
    classes, truth = (torch.tensor([sample.label for sample in samples]) for samples, *_ in (looked[0], looked[-1]))
    answers = {
        kind: leave_one_out(found, classes) if len(looked) == 1 else ridge(found, classes, kinds[1][kind])
        for kind, found in kinds[0].items()
    }
    return {kind: answer == truth for kind, answer in answers.items()}


def _features(
    samples: Sequence[Sample], maps: list[Tensor], aspects: Sequence[float], source: Any, workers: int
) -> dict[str, Tensor]:
    """The source's features (n, width) float64 on the CPU of whole pictures, crops, objects and backgrounds."""
    info, device = source_info(source), next(source.parameters()).device
    crop: Any = METHODS[CROP]()
    swap: Any = METHODS[SWAP]()
    boxed = [replace(s, box=crop.box(m, a)) for s, m, a in zip(samples, maps, aspects, strict=True)]
    across = vit_info(source).grid or (8, 8)
    patch = info.image_size // across[1]
    found: dict[str, list[Tensor]] = {"whole": [], "crop": [], "object": [], "background": []}

    def add(kind: str, images: Tensor) -> None:
        with torch.no_grad(), bf16_where_fast(device):
            found[kind].append(source(images.to(device)).cpu().double())

    size = (info.image_size, info.image_size)
    first = 0
    for images, _, _ in loader(_views(samples, info), 32, workers):
        ranks = torch.stack(maps[first : first + len(images)])
        ranks = F.interpolate(ranks[:, None], size, mode="bilinear")[:, 0]
        first += len(images)
        behind = torch.stack([background(image, rank, patch) for image, rank in zip(images, ranks, strict=True)])
        add("whole", images)
        add("background", behind)
        add("object", torch.where((ranks <= swap.mass)[:, None], images, behind.roll(1, 0)))
    for images, _, _ in loader(_views(boxed, info), 32, workers):
        add("crop", images)
    return {kind: torch.cat(features) for kind, features in found.items()}


def scattered(samples: Sequence[Sample], look: Look, workers: int = 0) -> float:
    """How spread the source's attention is in the pictures, over how spread it is with their patches shuffled.

    Both are means of `gta.vit.foreground.spread` over the first `SHUFFLED` samples. Far below 1 there are objects; at 1
    no place is more to be looked at than any other.
    """
    info, samples = look.info, samples[:SHUFFLED]
    patch = info.image_size // (vit_info(look.model).grid or (8, 8))[1]
    own = mixed = 0.0
    for images, _ in loader(LookViews(samples, info.image_size, info.mean, info.std), 32, workers):
        own += float(spread(look.attention(images)).sum())
        cells = F.unfold(images, patch, stride=patch)  # (B, 3 patch², patches)
        cells = torch.stack([cell[:, torch.randperm(cell.shape[1])] for cell in cells])
        shuffled = F.fold(cells, images.shape[-2:], patch, stride=patch)
        mixed += float(spread(look.attention(shuffled)).sum())
    return own / mixed


def _views(samples: Sequence[Sample], info: Any) -> TestViews:
    unmasked = [replace(sample, mask=None) for sample in samples]
    return TestViews(unmasked, info.image_size, info.mean, info.std, frame="whole")


def ridge(features: Tensor, classes: Tensor, others: Tensor) -> Tensor:
    """The classes that kernel ridge regression on (n, d) float64 features says of others' (m, d): (m,) int64."""
    kernel, others = _kernels(features, others)
    solved = torch.linalg.solve(kernel + RIDGE * torch.eye(len(kernel)), F.one_hot(classes).double())
    return (others @ solved).argmax(-1)


def leave_one_out(features: Tensor, classes: Tensor) -> Tensor:
    """The class that the same says of each by all others: (n,) int64."""
    kernel, _ = _kernels(features, features)
    inverse = torch.linalg.inv(kernel + RIDGE * torch.eye(len(kernel)))
    truth = F.one_hot(classes).double()
    return (truth - inverse @ truth / inverse.diagonal()[:, None]).argmax(-1)


def _kernels(features: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    mean = features.mean(0)
    scale = math.sqrt(float((features - mean).square().sum(1).mean())) or 1.0
    features, others = (features - mean) / scale, (others - mean) / scale
    return features @ features.T + 1, others @ features.T + 1
