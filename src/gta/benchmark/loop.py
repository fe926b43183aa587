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
from torchvision.transforms.v2.functional import to_pil_image

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


def around_the_step(setting: Setting, rounds: int) -> dict[str, Any]:
    """Epochs of plain fine-tuning on JPEG photographs, by `gta train`'s loop and by hand, in turn; per step.

    Both have the same images, augmentation, loader, model, precision, AdamW and clipping; the first epoch of each, in
    which the photographs are decoded, is left out.
    """
    info, size = source_info(setting.source), setting.images.shape[-1]
    workers = workers_for(setting.device.type)
    with TemporaryDirectory(prefix="gta-bench-") as name:
        samples = _photographs(Path(name), STEPS * len(setting.images))
        options = TrainOptions(
            data=name, out=name, method="plain", epochs=rounds + 1, batch_size=len(setting.images), lr=1e-5,
            precision="bf16" if setting.low else "32", image_size=size, devices=1,
        )  # fmt: skip
        sampler = EpochSampler(len(samples), seed=0)
        batches = loader(TrainViews(samples, size, seed=0), options.batch, workers, sampler=sampler)
        normalise = partial(normalised, mean=info.mean, std=info.std)
        method = ComposedMethod(setting.target, setting.source, [Plain()], attention=setting.attention)
        module = FineTuning(method, options, STEPS * options.epochs, lambda: (), normalise)
        run = RunFolder(Path(name), resume=False, overwrite=False)
        ours, theirs = Recorder(run), _ByHand(setting, options, batches, normalise)
        make_trainer(options, [ours, theirs], Checkpoints(run), changing=False).fit(module, batches)
        method.to(setting.device)  # Lightning leaves both models on the CPU
    epochs = {"gta train": ours.epochs[1:], "by hand": theirs.epochs[1:]}
    seconds = {name: [e["seconds"] / STEPS for e in those] for name, those in epochs.items()}
    rows = {
        name: {
            "against": "by hand",
            **compared(seconds[name], seconds["by hand"]),
            "waiting": median(e["waiting"] / e["seconds"] for e in those),
        }
        for name, those in epochs.items()
    }
    note = (
        f"Epochs of {STEPS} plain steps on JPEG files of {PHOTO[0]}×{PHOTO[1]} px, augmented by {workers or 'no'} "
        "processes beside the training's."
    )
    return {"rows": rows, "notes": [note]}


class _ByHand(L.Callback):
    """An epoch as one writes it without a framework, after each of the trainer's."""

    def __init__(self, setting: Setting, options: TrainOptions, batches: Any, normalise: Any) -> None:
        self.setting, self.options, self.batches, self.normalise = setting, options, batches, normalise
        self.epochs: list[dict[str, float]] = []
        self.optimizer = torch.optim.AdamW(parameter_groups(setting.target, options))

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
