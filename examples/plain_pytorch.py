"""Guide a ViT in a training loop of your own: the lines marked with <- are all there is to it.

python examples/plain_pytorch.py --source dinov2_vits14.safetensors --data photos --image_size 126
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import gta


def main(
    source: str, data: str, image_size: int = 224, epochs: int = 10, lr: float = 3e-5, weight: float = 10.0
) -> float:
    """Fine-tune on DATA/train with the guide, print the accuracy on DATA/test and return it in percent."""
    frozen = gta.load_source(source, image_size=image_size)  # <-
    normalise = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(frozen.info.mean, frozen.info.std)]
    augment = v2.Compose([v2.RandomResizedCrop(image_size, scale=(0.5, 1)), v2.RandomHorizontalFlip(), *normalise])
    resize = v2.Compose([v2.Resize(image_size), v2.CenterCrop(image_size), *normalise])
    training = ImageFolder(f"{data}/train", augment)
    testing = ImageFolder(f"{data}/test", resize)

    torch.manual_seed(0)
    model = gta.new_target(frozen, num_classes=len(training.classes))
    guided = gta.guide(model, frozen, weight=weight)  # <-
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    for epoch in range(epochs):
        guided.train()
        for images, labels in DataLoader(training, batch_size=32, shuffle=True):
            logits, penalty = guided(images)  # <-
            loss = F.cross_entropy(logits, labels) + penalty  # <-
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, of it the guide {penalty.item():.3f}")

    model.eval()
    with torch.no_grad():
        hits = sum((model(x).argmax(-1) == y).sum().item() for x, y in DataLoader(testing, batch_size=32))
    top1 = 100 * hits / len(testing)
    print(f"test top-1: {top1:.1f} %")
    torch.save(model.state_dict(), "model.pth")  # the user's own model: nothing of the source is in it
    return top1


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
