"""Views: the augmented or plain tensors that models see.

A training view is a function of (seed, epoch, image) and nothing else: not of the number of workers, of the
method, or of whether the run was interrupted. Where source rows are reused each image has an endless list of views,
each a function of (number of the view, content of the image's file), and a run takes a few of them in turn.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from gta.data.images import ImageCache, cropped, open_mask, open_objects, open_rgb, reduced
from gta.data.sample import Sample

FINGERPRINTS = 16  # views: enough for most of RandAugment's operations
BICUBIC = v2.InterpolationMode.BICUBIC


def seed_of(*parts: int) -> int:
    """One 63-bit seed of several integers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


class ViewStore(Protocol):
    """Has something more for every view, such as what a model makes of it."""

    def read(self, pair: tuple[str, int]) -> Tensor:
        """Of a view: (SHA-256 of the image's file, number of the view in the image's list)."""


Placed = tuple[Tensor, Tensor]  # an image (3, size, size) uint8, cropped and flipped; its pixels' ranks (size, size)


@dataclass(frozen=True)
class Edits:
    """What is done to training views between cropping and RandAugment.

    Attributes:
        edit: from an image and its ranks, and a function that draws those of any other, (3, size, size) uint8.
        ranks: by SHA-256 of an image's file, (h, w) float32 over what is shown of it, low where its object is.
    """

    edit: Callable[[Tensor, Tensor, Callable[[], Placed]], Tensor]
    ranks: Mapping[str, Tensor]


class TrainViews(Dataset[tuple[Tensor, ...]]):
    """Augmented training images: RandomResizedCrop(0.5 … 1), flip, RandAugment(2, 9).

    RandAugment is the paper's; its strength and the crop are this package's (the paper gives neither).
    Item: image (3, size, size) uint8, see `normalised`; label; and, with a store, what it has for the view.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: int,
        seed: int,
        views: int = 0,
        views_seed: int = 0,
        edits: Edits | None = None,
    ) -> None:
        """
        Args:
            samples: the training images.
            size: side of the views in px.
            seed: of views that are drawn anew.
            views: how many each image has, drawn anew for every epoch where 0.
            views_seed: which: the views_seed-th so many of each image's list.
            edits: what is done to the views.
        """
        self.samples, self.size, self.seed, self.views, self.views_seed = samples, size, seed, views, views_seed
        self.store: ViewStore | None = None
        crop, flip = v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=BICUBIC), v2.RandomHorizontalFlip()
        self._place = v2.Compose([crop, flip])
        self._augment = v2.Compose([v2.RandAugment(num_ops=2, magnitude=9), v2.PILToTensor()])
        self.view = v2.Compose([self._place, self._augment])
        self.edits = edits
        self._images = ImageCache(size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Any, ...]:
        epoch, index = divmod(position, len(self.samples))
        sample = self.samples[index]
        if not self.views:
            return self.draw(sample, seed_of(self.seed, epoch, index)), sample.label
        pair = (sample.sha256, self.number(epoch))
        more = () if self.store is None else (self.store.read(pair),)
        return self.draw(sample, view_seed(*pair)), sample.label, *more

    def number(self, epoch: int) -> int:
        """In each image's list, of the view that an epoch shows where each image has a fixed number of them."""
        return self.views_seed * self.views + epoch % self.views

    def draw(self, sample: Sample, seed: int) -> Tensor:
        """One view of an image: (3, size, size) uint8."""
        with _seeded(seed):
            if self.edits is None:
                return self.view(self._images.open(sample.path, sample.box))
            image = self.edits.edit(*self._placed(sample), self._another)
            return self._augment(v2.functional.to_pil_image(image))

    def _another(self) -> Placed:
        return self._placed(self.samples[int(torch.randint(len(self.samples), ()))])

    def _placed(self, sample: Sample) -> Placed:
        assert self.edits is not None
        image = self._images.open(sample.path, sample.box)
        rank = F.interpolate(self.edits.ranks[sample.sha256][None, None], image.size[::-1], mode="bilinear")[0]
        image, rank = self._place(image, tv_tensors.Mask(rank))
        return v2.functional.pil_to_tensor(image), rank.as_subclass(Tensor)[0]

    def fingerprint(self) -> str:
        """SHA-256 of views of a picture made for it: another one wherever pixels are made in another way."""
        side = 5 * self.size  # large enough to be reduced
        noise = torch.randint(256, (3, side, side + 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        picture = reduced(v2.functional.to_pil_image(noise), self.size)
        sha = hashlib.sha256()
        for i in range(FINGERPRINTS):
            with _seeded(view_seed(f"{i:x}", i)):
                sha.update(self.view(picture).numpy().tobytes())
        return sha.hexdigest()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global generator, from which torchvision draws, begins anew inside; outside nothing has happened."""
    generator = torch.default_generator
    before = generator.get_state()
    try:
        generator.manual_seed(seed)
        yield
    finally:
        generator.set_state(before)


def view_seed(sha256: str, view: int) -> int:
    """Seed of an image's view, the same in every run."""
    return seed_of(int(sha256, 16), view)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, height, width) uint8 as models take them: float32."""
    return v2.functional.normalize(v2.functional.to_dtype(images, torch.float32, scale=True), list(mean), list(std))


class _PlainViews(Dataset[tuple[Any, ...]]):
    """Images that are not augmented, in a frame of `FRAMES` (by default that of the class), and their masks."""

    default = "square"

    def __init__(
        self,
        samples: Sequence[Sample],
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        frame: str | None = None,
    ) -> None:
        self.samples, self.size, self.frame = samples, size, FRAMES[frame or self.default]
        self.view = test_view(size, mean, std, self.frame)

    def __len__(self) -> int:
        return len(self.samples)

    def mask(self, sample: Sample, read: Callable[..., Image.Image]) -> Tensor:
        """(size, size) uint8 of the values that `read` gives the mask's pixels; 0 where there is none."""
        if sample.mask is None:
            return torch.zeros((self.size, self.size), dtype=torch.uint8)
        image = cropped(read(sample.mask, sample.mask_kind), sample.box)
        return v2.functional.pil_to_tensor(self.frame(image, self.size))[0]

    def image(self, sample: Sample) -> Tensor:
        """(3, size, size) float32, normalised."""
        return self.view(cropped(open_rgb(sample.path), sample.box))


class TestViews(_PlainViews):
    """Images as evaluated: shorter side resized to `size`, centre cropped.

    Item: image (3, size, size) float32 normalised; label; mask (size, size) float32 in {0, 1}, or NaN
    throughout where the image has none or its object lies outside the frame.
    """

    __test__ = False  # no pytest class

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor]:
        sample = self.samples[index]
        mask = (self.mask(sample, open_mask) > 0).float()
        return self.image(sample), sample.label, mask if mask.any() else torch.full_like(mask, torch.nan)


class ObjectViews(_PlainViews):
    """Images in a frame of `FRAMES`, with the objects of their masks apart.

    Item: image (3, size, size) float32 normalised; objects (size, size) int64: 0 for the background, else the object's
    number; all 0 where there is no mask or the object lies outside the frame.
    """

    default = "whole"

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        return self.image(sample), self.mask(sample, open_objects).long()


class LookViews(_PlainViews):
    """Whole images, stretched. Item: image (3, size, size) float32 normalised; its width over its height."""

    default = "whole"

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        sample = self.samples[index]
        image = cropped(open_rgb(sample.path), sample.box)
        return self.view(image), image.width / image.height


def center_square(image: Image.Image, size: int) -> Image.Image:
    """The central square at `size` px: the same frame for photographs and masks."""
    side = min(image.size)
    return stretch(v2.functional.center_crop(image, [side, side]), size)


def stretch(image: Image.Image, size: int) -> Image.Image:
    """The whole image as a square of `size` px, photograph or mask."""
    mode = v2.InterpolationMode.NEAREST if image.mode == "L" else BICUBIC
    return v2.functional.resize(image, [size, size], interpolation=mode)


FRAMES = {"whole": stretch, "square": center_square}


def test_view(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    frame: Callable[..., Image.Image] = center_square,  # noqa: PT028 (no test)
) -> v2.Compose:
    """RGB image -> (3, size, size) float32 normalised."""
    view = v2.Lambda(partial(framed, size=size, frame=frame))  # picklable, for loader processes that are not forked
    return v2.Compose([view, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def framed(image: Image.Image, size: int, frame: Callable[..., Image.Image] = center_square) -> Tensor:
    """RGB image -> (3, size, size) uint8; `normalised`, it is what `test_view` gives.

    For threads beside a model on the CPU: torch's parallel operations in them would start OpenMP threads of their own,
    and where there are more of these than cores, the model's no longer stay awake between its operations.
    """
    return v2.functional.pil_to_tensor(frame(image, size))
