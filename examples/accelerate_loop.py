"""Guide a ViT in a loop on accelerate, on one device or many: the lines marked with <- are all there is to it.

accelerate launch examples/accelerate_loop.py --source dinov2_vits14.safetensors --data photos --image_size 126
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from jsonargparse import auto_cli
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import gta


def main(
    source: str, data: str, image_size: int = 224, epochs: int = 10, lr: float = 3e-5, precision: str = "no"
) -> float:
    """Fine-tune on DATA/train with the guide and return the accuracy on DATA/test in percent."""
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=2)
    frozen = gta.load_source(source, image_size=image_size)  # <-
    resize = [v2.Resize(image_size), v2.CenterCrop(image_size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    view = v2.Compose([*resize, v2.Normalize(frozen.info.mean, frozen.info.std)])
    training, testing = (ImageFolder(f"{data}/{split}", view) for split in ("train", "test"))

    set_seed(0)
    model = gta.new_target(frozen, num_classes=len(training.classes))
    guided = gta.guide(model, frozen, weight=10.0)  # <-
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    batches = DataLoader(training, batch_size=8, shuffle=True)
    guided, optimizer, batches = accelerator.prepare(guided, optimizer, batches)  # <-
    for _ in range(epochs):
        guided.train()
        for images, labels in batches:
            with accelerator.accumulate(guided):
                logits, penalty = guided(images)  # <-
                accelerator.backward(F.cross_entropy(logits, labels) + penalty)  # <-
                optimizer.step()
                optimizer.zero_grad()

    model.eval()
    with torch.no_grad():
        pairs = ((x.to(accelerator.device), y.to(accelerator.device)) for x, y in DataLoader(testing, batch_size=32))
        hits = sum((model(x).argmax(-1) == y).sum().item() for x, y in pairs)
    accelerator.save(model.state_dict(), "model.pth")  # the user's own model: nothing of the source is in it
    top1 = 100 * hits / len(testing)
    accelerator.print(f"test top-1: {top1:.1f} %")
    return top1


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
