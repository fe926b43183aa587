"""The guide in other people's loops: same gradient as by hand, and afterwards no trace of it."""

from __future__ import annotations

import copy
import json

import lightning
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gta
from gta.integrations.lightning import Guide
from gta.integrations.transformers import guide, release
from tests.conftest import spread, tiny_vit

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def vit() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SHAPE, image_size=32, patch_size=8, num_labels=3)
    return spread(transformers.ViTForImageClassification(config))


@pytest.fixture
def images():
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pair():
    source = vit()
    return spread(copy.deepcopy(source)).train(), source


def by_hand(pair, images):
    """Weights after one SGD step on all six images, guided in a loop of one's own."""
    target, source = (copy.deepcopy(m) for m in pair)
    logits, penalty = gta.guide(target, source, weight=5.0)(images)
    (F.cross_entropy(logits, LABELS) + penalty).backward()
    torch.optim.SGD(target.parameters(), lr=0.05).step()
    return target


def trainer(model, images, folder, **more):
    photos = [{"pixel_values": x, "labels": y} for x, y in zip(images, LABELS.tolist(), strict=True)]
    settings = {"per_device_train_batch_size": 6, "max_steps": 1, "optim": "sgd", "learning_rate": 0.05, **more}
    settings |= {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "report_to": [], "use_cpu": True}
    args = transformers.TrainingArguments(str(folder), disable_tqdm=True, save_strategy="no", **settings)
    return transformers.Trainer(model=model, args=args, train_dataset=photos, eval_dataset=photos)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    ],
)
def test_trainer_takes_the_step_of_a_loop_by_hand(pair, images, tmp_path, more):
    wanted = by_hand(pair, images)
    target, source = pair
    guide(target, source, weight=5.0)
    trainer(target, images, tmp_path, **more).train()
    for (name, ours), theirs in zip(target.named_parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_trainer_saves_an_ordinary_checkpoint(pair, images, tmp_path):
    target, source = pair
    guided = guide(target, source, weight=5.0)
    loop = trainer(target, images, tmp_path, bf16=True)
    loop.train()
    loop.save_model(str(tmp_path / "saved"))
    assert guided.measure(images).min() > 0
    vit().save_pretrained(tmp_path / "plain")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]
    ours, plain = (set(load_file(tmp_path / name / "model.safetensors")) for name in ("saved", "plain"))
    assert ours == plain
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    loss = loop.evaluate()["eval_loss"]  # plain cross-entropy: no penalty in eval mode
    assert torch.equal(loaded(images).logits, release(target.eval())(images).logits)
    assert loss == pytest.approx(F.cross_entropy(loaded(images).logits, LABELS).item(), rel=0.02)


def test_release_gives_the_model_its_own_forward_back(pair, images):
    target, source = pair
    guide(target, source)
    assert target(images, labels=LABELS).loss > release(target)(images, labels=LABELS).loss
    assert "forward" not in vars(target)
    with pytest.raises(gta.GtaError, match="no guide"):
        release(target)


def test_a_copy_of_a_prepared_model_guides_itself(pair, images):
    target, source = pair
    guide(target, source)
    twin = copy.deepcopy(target)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    twin(images, labels=LABELS).loss.backward()
    assert twin.classifier.weight.grad.abs().sum() > 0
    assert target.classifier.weight.grad is None


def test_a_loss_that_is_not_the_models_own_is_refused(pair, images, tmp_path):
    target, source = pair
    guide(target, source)
    with pytest.raises(gta.GtaError, match="compute_loss_func"):
        trainer(target, images, tmp_path, label_smoothing_factor=0.1).train()
    with pytest.raises(gta.GtaError, match="guided already"):
        guide(target, source)


def test_reentrant_checkpointing_is_refused(pair, images):
    target, source = pair
    guide(target, source)
    target.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(gta.GtaError, match="use_reentrant=False"):
        target(images, labels=LABELS)


def test_return_dict_false(pair, images):
    target, source = pair
    plain = target(images, labels=LABELS).loss
    guide(target, source, weight=5.0)
    whole = target(images, labels=LABELS).loss
    assert whole > plain
    torch.testing.assert_close(target(images, labels=LABELS, return_dict=False)[0], whole)


class Mine(lightning.LightningModule):
    def __init__(self, backbone: nn.Module, way: str = "tensor") -> None:
        super().__init__()
        self.backbone, self.way = backbone, way

    def training_step(self, batch, _):
        images, labels = batch
        loss = F.cross_entropy(self.backbone(images), labels)
        return {"loss": loss, "more": 1} if self.way == "dict" else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(module, images, folder, **options):
    guide = Guide(weight=5.0, **options)
    loop = lightning.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[guide],
    )
    loop.fit(module, DataLoader(TensorDataset(images, LABELS), batch_size=6))
    return loop


@pytest.mark.parametrize("way", ["tensor", "dict"])
def test_lightning_takes_the_step_of_a_loop_by_hand(tmp_path, way):
    images = torch.randn(6, 3, 40, 40)
    source = tiny_vit()
    target = spread(copy.deepcopy(source)).train()
    wanted = by_hand((target, source), images)
    module = Mine(target, way)
    loop = fit(module, images, tmp_path, source=source, model="backbone")
    for (name, ours), theirs in zip(target.named_parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)
    assert loop.callback_metrics["penalty"] > 0
    assert "forward" not in vars(target)
    assert "training_step" not in vars(module)
    saved = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=False)
    assert set(saved["state_dict"]) == {f"backbone.{k}" for k in tiny_vit().state_dict()}


def test_lightning_refuses_what_it_cannot_guide(tmp_path):
    images, source = torch.randn(6, 3, 40, 40), tiny_vit()
    module = Mine(copy.deepcopy(source))
    with pytest.raises(gta.GtaError, match=r"no module called 'model'; it has backbone"):
        fit(module, images, tmp_path, source=source)
    module.automatic_optimization = False
    with pytest.raises(gta.GtaError, match="optimises by hand"):
        fit(module, images, tmp_path, source=source, model="backbone")
    module.automatic_optimization = True
    module.spare, module.backbone = copy.deepcopy(source), nn.Sequential(nn.Flatten(), nn.Linear(4800, 3))
    with pytest.raises(gta.GtaError, match="did not run"):
        fit(module, images, tmp_path, source=source, model="spare")
