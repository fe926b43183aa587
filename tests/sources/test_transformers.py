"""Sources of transformers, from folders written on the spot."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from torch import nn

import gta
from gta.cli import main
from gta.worlds.folder import write_world
from gta.worlds.options import WorldOptions
from tests.conftest import spread

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SIZE = {"image_size": 32, "patch_size": 8}


def saved(folder, model: str, config: str, **more) -> nn.Module:
    torch.manual_seed(0)
    written = spread(getattr(transformers, model)(getattr(transformers, config)(**{**SHAPE, **SIZE, **more})))
    written.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return written.eval()


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_a_folder_of_transformers_is_a_source(tmp_path, prefix):
    written = saved(tmp_path, "ViTForImageClassification", "ViTConfig")
    source = gta.load_source(f"{prefix}{tmp_path}")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(source(images).last_hidden_state, written.vit(images).last_hidden_state)
    assert source.info.mean == (0.5, 0.5, 0.5)
    assert source.info.std == (0.25, 0.25, 0.25)
    assert source.info.image_size == 32
    assert source.config._attn_implementation == "sdpa"
    assert not source.training
    assert not any(p.requires_grad for p in source.parameters())


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("ViTForImageClassification", "ViTConfig"),
        ("DeiTModel", "DeiTConfig"),
        ("Dinov2Model", "Dinov2Config"),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"),
        ("BeitModel", "BeitConfig"),
    ],
)
def test_a_target_is_an_image_classifier_around_the_same_weights(tmp_path, model, config):
    saved(tmp_path, model, config)
    source = gta.load_source(tmp_path)
    target = gta.new_target(source, num_classes=5)
    images = torch.randn(2, 3, 32, 32)
    logits, penalty = gta.guide(target, source)(images)
    assert logits.shape == (2, 5)
    assert penalty == 0  # identical to the source, no dropout
    with torch.no_grad():
        next(p for n, p in target.named_parameters() if "q_proj" in n or "query" in n).mul_(1.1)
    assert gta.guide(target, source)(images)[1] > 0


@pytest.mark.parametrize(
    ("model", "config", "rows"),
    [("CLIPModel", "CLIPConfig", "cls"), ("SiglipModel", "SiglipConfig", "pool")],
)
def test_of_two_towers_the_one_that_sees_is_the_source(tmp_path, model, config, rows):
    text = {**SHAPE, "vocab_size": 20, "max_position_embeddings": 8}
    written = getattr(transformers, model)(
        getattr(transformers, config)(vision_config={**SHAPE, **SIZE}, text_config=text)
    )
    spread(written).save_pretrained(tmp_path)
    source = gta.load_source(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    want = written.eval().vision_model(images).last_hidden_state
    torch.testing.assert_close(source(images).last_hidden_state, want)
    again = gta.load_source(tmp_path).requires_grad_(True).train()
    assert gta.guide(spread(again), source, rows=rows)(images)[1] > 0
    with pytest.raises(gta.GtaError, match="head on a copy"):
        gta.new_target(source, num_classes=5)


def test_image_sizes(tmp_path):
    saved(tmp_path / "vit", "ViTModel", "ViTConfig")
    saved(tmp_path / "dino", "Dinov2Model", "Dinov2Config")
    assert gta.load_source(tmp_path / "dino", image_size=48).info.image_size == 48
    with pytest.raises(gta.GtaError, match="interpolate_pos_encoding=True"):
        gta.load_source(tmp_path / "vit", image_size=48)
    with pytest.raises(gta.GtaError, match="use 40 or 48"):
        gta.load_source(tmp_path / "dino", image_size=45)


def test_what_transformers_cannot_load_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(gta.GtaError, match="could not be loaded by transformers"):
        gta.load_source(f"hf:{tmp_path}/nothing")
    saved(tmp_path, "ViTModel", "ViTConfig")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(gta.GtaError, match="unfilled"):
        gta.load_source(tmp_path)


def test_gta_train_says_that_it_takes_models_of_timm(tmp_path, capsys):
    (tmp_path / "vit").mkdir()
    saved(tmp_path / "vit", "ViTModel", "ViTConfig")
    write_world(WorldOptions(str(tmp_path / "data"), classes=2, train=2, val=1, test=1, size=32))
    words = ["--data", str(tmp_path / "data"), "--source", str(tmp_path / "vit"), "--image-size", "32"]
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    assert "examples/transformers_trainer.py" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_code_beside_a_config_is_neither_run_nor_asked_for(tmp_path, monkeypatch, capsys):
    """transformers would ask on the terminal whether to run it."""
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(gta.GtaError, match="could not be loaded by transformers"):
        gta.load_source(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert "run the custom code" not in capsys.readouterr().out
