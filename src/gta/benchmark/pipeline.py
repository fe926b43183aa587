"""What is around the step: Lightning's loop against a loop by hand, and how long training waits for images."""

import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_pil_image

from gta.acceleration.attention import ShortAttention
from gta.benchmark.meters import compared
from gta.benchmark.setting import CLASSES, Setting, picture
from gta.data.loading import EpochSampler, loader, workers_for
from gta.data.sample import Sample
from gta.data.transforms import TrainViews, normalised
from gta.methods.compose import ComposedMethod
from gta.methods.plain import Plain
from gta.sources.info import source_info
from gta.training.module import FineTuning
from gta.training.optimiser import parameter_groups
from gta.training.options import TrainOptions
from gta.training.recorder import Checkpoints, Recorder
from gta.training.run_folder import RunFolder
from gta.training.trainer import make_trainer

STEPS = 4  # of an epoch
PHOTO = (500, 375)  # px


def pipeline(setting: Setting, rounds: int) -> dict[str, Any]:
    """Epochs of plain fine-tuning on JPEG photographs, by `gta train`'s loop and by hand, in turn.

    Both have the same images, augmentation, loader, model, precision, AdamW and clipping; the first epoch of each, in
    which the photographs are decoded, is left out.
    """
    info = source_info(setting.source)
    size, device = setting.images.shape[-1], setting.device
    workers = workers_for(device.type)
    with TemporaryDirectory(prefix="gta-bench-") as name:
        folder = Path(name)
        samples = _photographs(folder, STEPS * len(setting.images))
        options = TrainOptions(
            data=name, out=name, method="plain", epochs=rounds + 1, batch_size=len(setting.images), lr=1e-5,
            precision="bf16" if setting.low else "32", image_size=size, devices=1,
        )  # fmt: skip
        sampler = EpochSampler(len(samples), seed=0)
        batches = loader(TrainViews(samples, size, seed=0), options.batch_size, workers, sampler=sampler)
        normalise = partial(normalised, mean=info.mean, std=info.std)
        method = ComposedMethod(setting.target, setting.source, [Plain()], around_target=ShortAttention)
        module = FineTuning(method, options, STEPS * options.epochs, lambda: (), normalise)
        run = RunFolder(folder, resume=False, overwrite=False)
        recorder, by_hand = Recorder(run), _ByHand(setting, options, batches, normalise)
        trainer = make_trainer(options, [recorder, by_hand], Checkpoints(run), changing=False)
        trainer.fit(module, batches)
    ours, theirs = ([e["seconds"] / STEPS for e in epochs[1:]] for epochs in (recorder.epochs, by_hand.epochs))
    return {
        "seconds": {"gta train": ours, "by hand": theirs},
        **compared(ours, theirs),
        "waiting": {
            name: median(e["waiting"] / e["seconds"] for e in epochs[1:])
            for name, epochs in (("gta train", recorder.epochs), ("by hand", by_hand.epochs))
        },
        "workers": workers,
        "steps": STEPS,
        "photo": list(PHOTO),
    }


class _ByHand(L.Callback):
    """An epoch as one writes it without a framework, after each of the trainer's."""

    def __init__(self, setting: Setting, options: TrainOptions, batches: DataLoader[Any], normalise: Any) -> None:
        self.setting, self.options, self.batches, self.normalise = setting, options, batches, normalise
        self.epochs: list[dict[str, float]] = []
        groups = parameter_groups(setting.target, options)
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model, device, waiting = self.setting.target, self.setting.device, 0.0
        model.train()
        began = ended = time.perf_counter()
        for images, labels in self.batches:
            waiting += time.perf_counter() - ended
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with self.setting.autocast():
                loss = F.cross_entropy(model(self.normalise(images)).float(), labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), self.options.clip)
            self.optimizer.step()
            ended = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.synchronize()
        self.epochs.append({"seconds": time.perf_counter() - began, "waiting": waiting})


def _photographs(folder: Path, count: int) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for i in range(count):
        path = folder / f"{i}.jpg"
        to_pil_image(picture(*PHOTO, generator)).save(path, quality=90)
        samples.append(Sample(path, path.name, i % CLASSES))
    return samples
