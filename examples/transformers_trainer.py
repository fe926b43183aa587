"""Guide a model of transformers in its own Trainer: the lines marked with <- are all there is to it.

python examples/transformers_trainer.py --source hf:facebook/dinov2-small --data photos
"""

from __future__ import annotations

import torch
from jsonargparse import auto_cli
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from transformers import Trainer, TrainingArguments

import gta
from gta.integrations import transformers as guided_transformers


def main(source: str, data: str, out: str = "model", epochs: int = 10, lr: float = 3e-5, weight: float = 10.0) -> float:
    """Fine-tune on DATA/train, write the model to OUT, and return the accuracy on DATA/test in percent."""
    frozen = gta.load_source(source)  # <-
    size = frozen.info.image_size
    normalise = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(frozen.info.mean, frozen.info.std)]
    augment = v2.Compose([v2.RandomResizedCrop(size, scale=(0.5, 1)), v2.RandomHorizontalFlip(), *normalise])
    training = ImageFolder(f"{data}/train", augment)
    testing = ImageFolder(f"{data}/test", v2.Compose([v2.Resize(size), v2.CenterCrop(size), *normalise]))

    torch.manual_seed(0)
    model = gta.new_target(frozen, num_classes=len(training.classes))  # or AutoModelForImageClassification
    guided_transformers.guide(model, frozen, weight=weight)  # <-

    def collate(examples: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
        images, labels = zip(*examples, strict=True)
        return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            out, num_train_epochs=epochs, learning_rate=lr, per_device_train_batch_size=32, report_to=[]
        ),
        train_dataset=training,
        eval_dataset=testing,
        data_collator=collate,
        compute_metrics=lambda p: {"top1": 100 * float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    trainer.save_model()  # an ordinary checkpoint: AutoModelForImageClassification.from_pretrained(out)
    top1 = trainer.evaluate()["eval_top1"]
    print(f"test top-1: {top1:.1f} %")
    return top1


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
