"""Where a source looks in photographs: which part of them is shown, and what of it is about their class."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from gta.data.images import cropped
from gta.data.loading import loader
from gta.data.reading import Photos
from gta.data.sample import SPLITS, Sample
from gta.data.transforms import Edits, LookViews, ObjectViews, framed, normalised, stretch
from gta.devices import bf16_where_fast, default_device, on_device
from gta.errors import GtaError
from gta.methods import METHODS
from gta.methods.base import Method
from gta.methods.compose import ComposedMethod
from gta.sources.checkpoint_files import read_checkpoint, write_checkpoint
from gta.sources.info import SourceInfo, source_info
from gta.sources.loading import load_source
from gta.vit.foreground import RULE, ranked, saliency

LOOK_SIZE = 126  # px: its boxes overlap the objects' by 0.46, those at 168 px by 0.48, for twice the cost
FILE = "look.safetensors"
BATCH = 32


@dataclass(frozen=True)
class Look:
    """A model that says where to look, in eval mode, in images of its own size; it looks at none twice."""

    model: nn.Module
    info: SourceInfo
    _seen: dict[Any, tuple[Tensor, float]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, spec: str, image_size: int, heads: int | None = None) -> "Look":
        """A source from `gta.load_source`, its weights rounded to float16, as they are kept with a run.

        Args:
            spec: of a model of timm.
            image_size: of the training. It looks at no smaller images; at no larger ones than `LOOK_SIZE` or than it
                was pre-trained on otherwise.
        """
        model: Any = load_source(spec, heads=heads)
        if not hasattr(model, "set_input_size"):
            raise GtaError(f"{spec} is a {type(model).__name__}, and only models of timm can say where to look.")
        native, patch = model.info.image_size, max(model.patch_embed.patch_size)
        size = max(-(-image_size // patch), min(LOOK_SIZE, native) // patch) * patch
        if size != native:
            model.set_input_size(img_size=size)
        info = replace(model.info, model_args={**model.info.model_args, "img_size": size})
        return cls(model.half().float(), info)

    def save(self, folder: Path, crop: Method) -> None:
        """Keep it in a run's folder, in float16: a copy of the source, and how it crops."""
        tensors = {k: v.detach().cpu().half().contiguous() for k, v in self.model.state_dict().items()}
        described = {
            "architecture": self.info.architecture,
            "model_args": json.dumps(self.info.model_args),
            "mean": ",".join(map(str, self.info.mean)),
            "std": ",".join(map(str, self.info.std)),
            "rule": RULE,
            "crop": json.dumps({"method": crop.name, **asdict(crop)}),  # type: ignore[call-overload]
        }
        write_checkpoint(folder / FILE, tensors, {"format": "pt", **described})

    def ranks(self, samples: Sequence[Sample], workers: int = 0) -> tuple[list[Tensor], list[float]]:
        """Of each sample, in what is shown of it: (h, w) float32 of `gta.vit.foreground.ranked`; width over height."""
        new = [sample for sample in samples if (sample.path, sample.box) not in self._seen]
        views = LookViews(new, self.info.image_size, self.info.mean, self.info.std)
        pending = iter(new)
        for images, aspects in loader(views, BATCH, workers):
            for rank, aspect, sample in zip(self.looks(images), aspects.tolist(), pending, strict=False):
                self._seen[sample.path, sample.box] = rank, aspect
        found = [self._seen[sample.path, sample.box] for sample in samples]
        return [rank for rank, _ in found], [aspect for _, aspect in found]

    def looks(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) normalised -> ranks of their patches, (B, h, w) float32."""
        return ranked(self.attention(images))

    def attention(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) normalised -> `gta.vit.foreground.saliency`, (B, h, w) float32."""
        device = next(self.model.parameters()).device
        with bf16_where_fast(device):
            return saliency(self.model, images.to(device))

    def closer(self, samples: Sequence[Sample], crop: Method, workers: int = 0) -> tuple[Sample, ...]:
        """The samples with the boxes that a method shows of them."""
        found = zip(samples, *self.ranks(samples, workers), strict=True)
        return tuple(replace(sample, box=crop.box(rank, aspect)) for sample, rank, aspect in found)

    def foregrounds(self, samples: Sequence[Sample], masks: bool = False, workers: int = 0) -> dict[str, Tensor]:
        """The ranks of what is shown of samples, by SHA-256 of their files.

        Args:
            masks: those of the user's own instead where a sample has one: 0 on the object, 1 elsewhere.
        """
        maps, _ = self.ranks(samples, workers)
        found = {sample.sha256: rank for sample, rank in zip(samples, maps, strict=True)}
        masked = [sample for sample in samples if masks and sample.mask is not None]
        views = ObjectViews(masked, self.info.image_size, self.info.mean, self.info.std)
        for i, sample in enumerate(masked):
            _, objects = views[i]
            if objects.any():
                found[sample.sha256] = (objects == 0).float()
        return found


def looked_at(
    photos: Photos, look: Look, method: ComposedMethod, workers: int = 0, test: bool = True
) -> tuple[Photos, Edits | None]:
    """The photographs (those of test only with `test`) with the boxes that a method shows of them, and what it does
    to training views."""
    splits = SPLITS if test else SPLITS[:-1]
    with on_device(look.model, default_device()):
        for crop in method.crops:
            boxed: dict[str, Any] = {name: look.closer(getattr(photos, name), crop, workers) for name in splits}
            photos = replace(photos, **boxed)
        if not method.edits:
            return photos, None
        return photos, Edits(method.edit, look.foregrounds(photos.train, method.uses_masks, workers))


@dataclass(frozen=True)
class Closer:
    """What of an image a run's model is shown, as it was in its training."""

    look: Look
    crop: Method

    @classmethod
    def load(cls, folder: Path) -> "Closer | None":
        """Of a complete run, on the device that is there; None where its model sees whole images.

        Raises:
            GtaError: it was trained on crops that this version would choose otherwise.
        """
        if not (folder / FILE).is_file():
            return None
        _, metadata = read_checkpoint(folder / FILE)
        if (rule := metadata.get("rule")) != RULE:
            raise GtaError(
                f"{folder / FILE} says where to look by another rule ({rule or 'not named'}) than this version's "
                f"({RULE}): use the version that trained it, or train it again."
            )
        settings = json.loads(metadata["crop"])
        model = load_source(folder / FILE)
        return cls(Look(model.to(default_device()), source_info(model)), METHODS[settings.pop("method")](**settings))

    def of_samples(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """With the boxes that are shown of them."""
        return self.look.closer(samples, self.crop)

    def of_images(self, images: Sequence[Image.Image], views: Sequence[Tensor]) -> Iterator[Image.Image]:
        """What is shown of RGB images, given each one's `view`."""
        ranks = self.look.looks(self.normalised(views))
        for image, rank in zip(images, ranks, strict=True):
            yield cropped(image, self.crop.box(rank, image.width / image.height))

    def view(self, image: Image.Image) -> Tensor:
        """RGB image -> what is looked at: (3, size, size) uint8."""
        return framed(image, self.look.info.image_size, stretch)

    def normalised(self, views: Sequence[Tensor]) -> Tensor:
        """(3, size, size) as from `view` -> (B, 3, size, size) float32 as `looks` takes them."""
        device = next(self.look.model.parameters()).device
        return normalised(torch.stack(list(views)).to(device), self.look.info.mean, self.look.info.std)
