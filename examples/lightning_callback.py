"""Guide a LightningModule of your own by a callback: the lines marked with <- are all there is to it.

python examples/lightning_callback.py --source dinov2_vits14.safetensors --data photos --image_size 126
"""

from __future__ import annotations

import lightning
import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import gta
from gta.integrations.lightning import Guide  # <-


class Classifier(lightning.LightningModule):
    """Whatever you have: the guide needs to know only the name of the attribute that is the ViT."""

    def __init__(self, model: torch.nn.Module, lr: float) -> None:
        super().__init__()
        self.model, self.lr = model, lr

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        images, labels = batch
        self.log("top1", 100 * (self.model(images).argmax(-1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.05)


def main(source: str, data: str, image_size: int = 224, epochs: int = 10, lr: float = 3e-5) -> float:
    """Fine-tune on DATA/train with the guide and return the accuracy on DATA/test in percent."""
    frozen = gta.load_source(source, image_size=image_size)  # <-
    resize = [v2.Resize(image_size), v2.CenterCrop(image_size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    view = v2.Compose([*resize, v2.Normalize(frozen.info.mean, frozen.info.std)])
    training, testing = (ImageFolder(f"{data}/{split}", view) for split in ("train", "test"))

    lightning.seed_everything(0)
    module = Classifier(gta.new_target(frozen, num_classes=len(training.classes)), lr)
    guide = Guide(frozen, weight=10.0, model="model")  # <-
    trainer = lightning.Trainer(max_epochs=epochs, log_every_n_steps=1, callbacks=[guide])  # <-
    trainer.fit(module, DataLoader(training, batch_size=32, shuffle=True))
    return trainer.test(module, DataLoader(testing, batch_size=32))[0]["top1"]


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
