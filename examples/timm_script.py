"""Guide timm's training script: the same parts in the same order, the lines marked with <- are what to add to it.

python examples/timm_script.py --source dinov2_vits14.safetensors --data photos --image_size 126
"""

from __future__ import annotations

import torch
from jsonargparse import auto_cli
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, ModelEmaV3, NativeScaler, accuracy

import gta


def main(
    source: str, data: str, image_size: int = 224, batch_size: int = 32, epochs: int = 10, lr: float = 3e-5
) -> float:
    """Fine-tune on DATA/train with the guide and return the averaged model's accuracy on DATA/test in percent."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    frozen = gta.load_source(source, image_size=image_size)  # <-
    options = {"input_size": (3, image_size, image_size), "mean": frozen.info.mean, "std": frozen.info.std}
    options |= {"device": device, "use_prefetcher": False, "num_workers": 0, "persistent_workers": False}
    datasets = {split: create_dataset("", root=data, split=split) for split in ("train", "test")}
    training = create_loader(datasets["train"], batch_size=batch_size, is_training=True, scale=(0.5, 1), **options)
    testing = create_loader(datasets["test"], batch_size=batch_size, **options)

    torch.manual_seed(0)
    classes = len(datasets["train"].reader.class_to_idx)
    model = gta.new_target(frozen, num_classes=classes).to(device)  # or timm.create_model(…)
    guided = gta.guide(model, frozen, weight=10.0)  # <-
    optimizer = create_optimizer_v2(model, opt="adamw", lr=lr, weight_decay=0.05)
    scheduler = CosineLRScheduler(optimizer, t_initial=epochs)
    model_ema, loss_scaler = ModelEmaV3(model, decay=0.8), NativeScaler(device=device.type)
    train_loss_fn = LabelSmoothingCrossEntropy(0.1)
    for epoch in range(epochs):
        model.train()
        for input, target in training:
            input, target = input.to(device), target.to(device)
            with torch.autocast(device.type, enabled=device.type == "cuda"):
                output, penalty = guided(input)  # <-  instead of output = model(input)
                loss = train_loss_fn(output, target) + penalty  # <-
            optimizer.zero_grad()
            loss_scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            model_ema.update(model)
        scheduler.step(epoch + 1)
    top1 = AverageMeter()
    with torch.no_grad():
        for input, target in testing:
            top1.update(accuracy(model_ema.module(input.to(device)), target.to(device))[0].item(), len(input))
    print(f"test top-1: {top1.avg:.1f} %")
    return top1.avg


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
