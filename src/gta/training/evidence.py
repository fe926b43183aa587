"""What a run leaves of its images, so that others need no model: a report, a calibration, a search for wrong labels.

Written from the passes that measure the model; the images of other splits than the shown one are seen once more, by the
source alone. Every image is as the models saw it. The files and their columns: docs/commands.md.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gta.attention.maps import logits_and_rows, patch_grid
from gta.attention.metrics import mean_map, patch_attention
from gta.data.images import on_all_cores
from gta.data.loading import loader
from gta.data.reading import Photos
from gta.data.sample import SPLITS, Sample, evenly_spread
from gta.data.transforms import TestViews
from gta.devices import bf16_where_fast
from gta.files import atomic_write
from gta.sources.info import SourceInfo
from gta.tables import write_csv
from gta.training.evaluate import Batch
from gta.training.run_folder import RunFolder
from gta.vit.outputs import Features
from gta.vit.structure import vit_info

PREDICTIONS, FEATURES, ATTENTION, IMAGES = "predictions.csv", "features.npz", "attention.npz", "images.zip"
EPOCHS = "attention"  # folder of one file per epoch, with --keep-attention
EXPLORED = 12  # evenly spread images whose attention is kept layer by layer; as many mistakes come beside them
PICTURES = 500  # of validation and test images together, and of training images
SIDE = 224  # px of a picture, at most
NEIGHBOURS = 3
TINY = 16  # px of the grey version that tells copies


class Watch:
    """Gathers what `measure` sees of a split."""

    def __init__(self, target: nn.Module, source: nn.Module) -> None:
        self._models = target, source
        self._batches: list[dict[str, Tensor]] = []

    def __call__(self, batch: Batch) -> None:
        grid = patch_grid(self._models[0], batch.images)
        maps = {
            name: mean_map(patch_attention(rows[-1], vit_info(model).prefix_tokens)).unflatten(-1, grid)
            for name, model, rows in zip(
                ("target", "source"), self._models, (batch.rows, batch.source_rows), strict=True
            )
        }
        seen = {
            "logits": batch.logits,
            "features": batch.features,
            "tiny": _tiny(batch.images),
            "drift": torch.stack(batch.drift, 1),
            **maps,
        }
        self._batches.append({name: value.float().cpu() for name, value in seen.items()})

    def __getitem__(self, name: str) -> Tensor:
        """Of all images: logits (n, classes), features (n, width), tiny (n, 16, 16), drift (n, L, H), and the mean over
        heads of the last layer's attention, target and source (n, down, across)."""
        return torch.cat([batch[name] for batch in self._batches])


def write_predictions(out: Path, photos: Photos, logits: Mapping[str, Tensor]) -> None:
    """`predictions.csv`: split, path, label, guess, and `p:CLASS` for every class, with 9 significant digits.

    Of the model's logits (n, classes), by split.

    A softmax of their logarithms over a temperature is the softmax of the logits over it.
    """
    rows: list[dict[str, Any]] = []
    for split, of in logits.items():
        probabilities = of.double().softmax(-1)
        for sample, row in zip(photos.split(split), probabilities, strict=True):
            rows.append(
                {
                    "split": split,
                    "path": sample.name,
                    "label": photos.classes[sample.label],
                    "guess": photos.classes[int(row.argmax())],
                    **{f"p:{name}": f"{p:.9g}" for name, p in zip(photos.classes, row.tolist(), strict=True)},
                }
            )
    write_csv(out / PREDICTIONS, rows)


def write_evidence(
    out: Path,
    target: nn.Module,
    source: nn.Module,
    info: SourceInfo,
    photos: Photos,
    watch: Watch,
    explored: int,
    workers: int,
) -> None:
    """`features.npz`, `attention.npz` and `images.zip`.

    Args:
        out: run folder.
        target, source: on one device.
        info: image size and normalisation.
        photos: of the run.
        watch: of the shown split.
        explored: evenly spread images whose attention is written layer by layer; 0 for `EXPLORED`.
        workers: processes that load images.
    """
    split = shown_split(photos)
    splits = {name: getattr(photos, name) for name in SPLITS}
    samples = [sample for of in splits.values() for sample in of]
    before = len(samples) - len(photos.split(split))  # rows of features.npz before the shown split's, the last one
    others, tiny = _source_pass(source, info, samples[:before], workers)
    features = torch.cat([others, watch["features"]])
    with atomic_write(out / FEATURES) as new, new.open("wb") as file:
        np.savez_compressed(
            file,
            split=np.array([split for split, of in splits.items() for _ in of]),
            path=np.array([sample.name for sample in samples]),
            label=np.array([sample.label for sample in samples], np.int32),
            classes=np.array(photos.classes),
            sha256=np.array([sample.sha256 for sample in samples]),
            features=features.half().numpy(),
            tiny=torch.cat([tiny, watch["tiny"]]).byte().numpy(),
        )
    wrong = _mistakes(photos.split(split), watch)
    spread = explored_images(photos, explored)
    chosen = list(dict.fromkeys([*spread, *wrong[:EXPLORED]]))
    views = TestViews([photos.split(split)[i] for i in chosen], info.image_size, info.mean, info.std)
    seen = [views[i] for i in range(len(views))]
    inputs, masks = torch.stack([view[0] for view in seen]), torch.stack([view[2] for view in seen])
    with atomic_write(out / ATTENTION) as new, new.open("wb") as file:
        np.savez_compressed(
            file,
            split=np.array(split),
            rows=np.arange(before, before + len(photos.split(split))),
            target_mean=watch["target"].half().numpy(),
            source_mean=watch["source"].half().numpy(),
            drift=watch["drift"].mean(0).numpy(),
            explored=np.array(chosen) + before,
            target=whole_attention(target, inputs),
            source=whole_attention(source, inputs),
            masks=(masks > 0.5).numpy(),  # False throughout where there is none
        )
    _write_pictures(out, info, samples, _pictured(features, len(photos.train), wrong, before, chosen))


def shown_split(photos: Photos) -> str:
    """The split that a page is about: test, or val where there is none."""
    return "test" if photos.test else "val"


def explored_images(photos: Photos, count: int) -> list[int]:
    """Which images of the shown split are followed, evenly spread over it."""
    return evenly_spread(range(len(photos.split(shown_split(photos)))), count or EXPLORED)


def whole_attention(model: nn.Module, images: Tensor) -> np.ndarray[Any, Any]:
    """[cls] attention over the patches in every layer and head, (n, L, H, down, across) float16.

    Args:
        model: a ViT with a [cls] token.
        images: (n, 3, height, width), normalised, on any device.
    """
    device = next(model.parameters()).device
    prefix, found = vit_info(model).prefix_tokens, []
    for few in images.split(16):
        _, rows = logits_and_rows(model, few.to(device))
        layers = torch.stack([patch_attention(row, prefix) for row in rows], 1)
        found.append(layers.unflatten(-1, patch_grid(model, few)).half().cpu())
    return torch.cat(found).numpy()


class KeptAttention(L.Callback):
    """Writes `attention/NNNN.npz` after every epoch: `target`, as of `whole_attention`, of the images that are
    explored in the end. It costs a forward pass of these images an epoch, and images × layers × heads × patches × 2
    bytes on disk."""

    def __init__(self, folder: RunFolder, photos: Photos, info: SourceInfo, count: int) -> None:
        split = photos.split(shown_split(photos))
        chosen = [split[i] for i in explored_images(photos, count)]
        views = TestViews(chosen, info.image_size, info.mean, info.std)
        self._folder = folder
        self._images = torch.stack([views[i][0] for i in range(len(views))])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            path = self._folder.path / EPOCHS / f"{trainer.current_epoch + 1:04}.npz"
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path) as new, new.open("wb") as file:
                model: Any = pl_module.method
                np.savez_compressed(file, target=whole_attention(model.model, self._images))


def _source_pass(source: nn.Module, info: SourceInfo, samples: Sequence[Sample], workers: int) -> tuple[Tensor, Tensor]:
    """Of images: the source's features, (n, width), and the grey versions, (n, 16, 16)."""
    unmasked = [replace(sample, mask=None) for sample in samples]
    device = next(source.parameters()).device
    captured, features, tiny = Features(vit_info(source)), [], []
    source.eval()
    for images, *_ in loader(TestViews(unmasked, info.image_size, info.mean, info.std), 32, workers):
        with torch.no_grad(), bf16_where_fast(device), captured:
            source(images.to(device))
        features.append(captured.read(images).float().cpu())
        tiny.append(_tiny(images))
    return torch.cat(features), torch.cat(tiny)


def _tiny(images: Tensor) -> Tensor:
    """Grey versions of normalised images, stretched to 0 … 255: unchanged by brightness and contrast."""
    small = F.interpolate(images.float().mean(1, keepdim=True), (TINY, TINY), mode="bilinear", antialias=True)[:, 0]
    low, high = small.amin((1, 2), keepdim=True), small.amax((1, 2), keepdim=True)
    return (255 * (small - low) / (high - low).clamp(min=1e-6)).round().cpu()


def _mistakes(samples: Sequence[Sample], watch: Watch) -> list[int]:
    """The images that are guessed wrong, the most confident first."""
    confidence, guesses = watch["logits"].softmax(-1).max(-1)
    wrong = guesses != torch.tensor([sample.label for sample in samples])
    return [int(i) for i in confidence.argsort(descending=True) if wrong[i]]


def _pictured(features: Tensor, train: int, wrong: Sequence[int], before: int, explored: Sequence[int]) -> list[int]:
    """Rows of features.npz of which there are pictures: of what is shown the explored, the mistakes, then evenly
    spread ones; of the training images those nearest to these, then evenly spread ones."""
    others = evenly_spread(range(train, len(features)), PICTURES)
    shown = list(dict.fromkeys([*(before + i for i in (*explored, *wrong)), *others]))[:PICTURES]
    unit = F.normalize(features.float(), dim=-1)
    near = (unit[shown] @ unit[:train].T).topk(min(NEIGHBOURS, train)).indices.T.flatten().tolist()
    return sorted({*shown, *list(dict.fromkeys([*near, *evenly_spread(range(train), PICTURES)]))[:PICTURES]})


def _write_pictures(out: Path, info: SourceInfo, samples: Sequence[Sample], chosen: Sequence[int]) -> None:
    """`images.zip`: NNNNNN.webp by row of features.npz, as the models saw it."""
    unmasked = [replace(samples[i], mask=None) for i in chosen]
    views = TestViews(unmasked, info.image_size, info.mean, info.std)
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))

    def encoded(position: int) -> bytes:
        pixels = ((views[position][0] * std + mean) * 255).round().clamp(0, 255).byte()
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        image.save(file, "WEBP", quality=80, method=2)  # 4 % larger than by the default, in a third of the time
        return file.getvalue()

    with atomic_write(out / IMAGES) as new, zipfile.ZipFile(new, "w") as archive:
        for row, content in zip(chosen, on_all_cores(encoded, range(len(chosen))), strict=True):
            archive.writestr(f"{row:06}.webp", content)
