"""Sources: found, mapped, resampled, reported, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import gta
from gta.sources.checkpoint_files import read_checkpoint
from gta.sources.info import digest
from gta.sources.shapes import infer_architecture
from tests.conftest import SHARED, TINY, spread, tiny_vit

SIZE = 40


def images(size: int = SIZE, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_a_source_is_frozen_in_eval_mode_and_computes_what_was_saved(source_file):
    source = gta.load_source(str(source_file), image_size=SIZE)
    assert not source.training
    assert not any(p.requires_grad for p in source.parameters())
    original = tiny_vit(num_classes=0).eval()
    assert torch.equal(source(images()), original(images()))
    assert source.info.coverage == 1
    assert source.info.model_args["img_size"] == SIZE


FAMILIES = [
    ("vit_tiny_patch16_224", {}),
    ("vit_tiny_patch16_224", {"qkv_bias": False, "qk_norm": True, "pre_norm": True, "mlp_ratio": 3}),
    ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    ("vit_tiny_patch16_224", {"no_embed_class": True, "init_values": 1e-4}),
    ("vit_tiny_patch16_224", {"in_chans": 1}),
    ("deit_tiny_distilled_patch16_224", {}),
    ("vit_small_patch14_reg4_dinov2", {}),
]


@pytest.mark.parametrize(("name", "more"), FAMILIES)
def test_the_architecture_is_found_in_the_shapes(tmp_path, name, more):
    torch.manual_seed(0)
    model = spread(timm.create_model(name, img_size=SIZE, num_classes=4, **TINY, **more)).eval()
    path = tmp_path / "model.pth"
    torch.save(model.state_dict(), path)
    source = gta.load_source(path)
    x = images()[:, : more.get("in_chans", 3)]
    assert type(source) is type(model)
    assert torch.equal(source.forward_features(x), model.forward_features(x))
    assert set(source.info.unexpected) <= {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


WRAPPERS = {
    "state_dict with module.": lambda sd: {"state_dict": {f"module.{k}": v for k, v in sd.items()}},
    "student alone": lambda sd: {"student": {f"module.backbone.{k}": v for k, v in sd.items()}},
    "encoder.": lambda sd: {f"encoder.{k}": v for k, v in sd.items()} | {"decoder.x": torch.ones(2)},
    "half precision": lambda sd: {k: v.half() for k, v in sd.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_and_precision_change_no_bit(tmp_path, wrapper):
    model = tiny_vit(num_classes=0).eval()
    torch.save(WRAPPERS[wrapper](model.state_dict()), tmp_path / "checkpoint.pt")
    source = gta.load_source(tmp_path / "checkpoint.pt")
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if "half" in wrapper else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(source(images()), model(images()), **tolerance)
    assert next(source.parameters()).dtype == torch.float32


def test_deit3s_layer_scale_is_renamed(tmp_path):
    torch.manual_seed(0)
    deit3 = spread(timm.create_model("deit3_small_patch16_224", img_size=SIZE, num_classes=0, **TINY)).eval()
    theirs = {
        k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for k, v in deit3.state_dict().items()
    }
    torch.save({"model": theirs}, tmp_path / "deit3.pth")
    source = gta.load_source(tmp_path / "deit3.pth")
    assert torch.equal(source(images()), deit3(images()))
    assert source.info.layout == "DeiT-III"


def test_metadata_names_the_architecture(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=48, depth=2)
    metadata = {"architecture": "vit_tiny_patch16_224", "model_args": json.dumps({"img_size": 48, "depth": 2}),
                "mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25"}  # fmt: skip
    save_file(model.state_dict(), tmp_path / "m.safetensors", metadata)
    info = gta.load_source(tmp_path / "m.safetensors").info
    assert (info.architecture, info.image_size) == ("vit_tiny_patch16_224", 48)
    assert (info.mean, info.std) == ((0.5,) * 3, (0.25,) * 3)


def test_position_embeddings_are_resampled_as_timm_does(source_file):
    source = gta.load_source(source_file, image_size=72)
    model = tiny_vit(num_classes=0).eval()
    model.set_input_size(img_size=(72, 72))
    torch.testing.assert_close(source(images(72)), model(images(72)))


def test_a_target_starts_from_the_source_with_a_fresh_head(source_file):
    source = gta.load_source(source_file, image_size=SIZE)
    target = gta.new_target(source, num_classes=11)
    assert target.training
    assert all(p.requires_grad for p in target.parameters())
    assert target(images()).shape == (2, 11)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())
    with torch.no_grad():
        target.cls_token.add_(1)
    assert not torch.equal(source.cls_token, target.cls_token)  # no shared storage
    assert gta.guide(target, source)(images())[1] > 0


def test_a_distilled_target_has_two_fresh_heads(tmp_path):
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=SIZE, num_classes=3, **TINY)
    torch.save(model.state_dict(), tmp_path / "d.pth")
    target = gta.new_target(gta.load_source(tmp_path / "d.pth"), 5)
    assert target.eval()(images()).shape == (2, 5)


def refuse(path: Path | str, *words: str, **more: object) -> None:
    with pytest.raises(gta.GtaError) as refusal:
        gta.load_source(path, **more)
    missing = [w for w in words if w not in str(refusal.value)]
    assert not missing, f"{missing} not in: {refusal.value}"


def test_partial_files_are_refused_with_what_is_missing(tmp_path, source_file):
    weights = load_file(source_file)
    for key in [k for k in weights if k.startswith("blocks.1.")]:
        del weights[key]
    save_file(weights, tmp_path / "partial.safetensors")
    refuse(tmp_path / "partial.safetensors", "30 of 42", "71%", "blocks.1.")


def test_files_of_another_architecture_are_refused(tmp_path):
    resnet = timm.create_model("resnet10t", num_classes=0)
    save_file(resnet.state_dict(), tmp_path / "resnet.safetensors")
    refuse(tmp_path / "resnet.safetensors", "patch_embed.proj.weight", "bn1")
    swin = {"patch_embed.proj.weight": torch.ones(96, 3, 4, 4), "layers.0.blocks.0.attn.qkv.weight": torch.ones(9, 3)}
    save_file(swin, tmp_path / "swin.safetensors")
    refuse(tmp_path / "swin.safetensors", "not a plain ViT")
    save_file(tiny_vit().state_dict(), tmp_path / "lied.safetensors", {"architecture": "vit_base_patch16_224"})
    refuse(tmp_path / "lied.safetensors", "vit_base_patch16_224", "another architecture")


def test_tensors_beside_the_chosen_model_do_not_overwrite_it(tmp_path):
    model, other = tiny_vit(num_classes=0).eval(), tiny_vit(seed=1, num_classes=0)
    both = {f"teacher.{k}": v for k, v in model.state_dict().items()} | other.state_dict()
    torch.save(both, tmp_path / "both.pth")
    assert torch.equal(gta.load_source(tmp_path / "both.pth")(images()), model(images()))


def test_a_few_missing_keys_are_told(tmp_path, source_file):
    weights = load_file(source_file)
    del weights["blocks.1.attn.proj.bias"]
    save_file(weights, tmp_path / "m.safetensors")
    with pytest.warns(UserWarning, match=r"lacks 1 of 42.*blocks\.1\.attn\.proj\.bias"):
        info = gta.load_source(tmp_path / "m.safetensors").info
    assert info.missing == ("blocks.1.attn.proj.bias",)
    assert info.coverage == pytest.approx(41 / 42)


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({"architecture": "vit_tiny_patch16_224", "model_args": "no json"}, "model_args"),
        ({"architecture": "vit_tiny_patch16_224", "model_args": "[1]"}, "model_args"),
        ({"architecture": "resnet18"}, "ResNet"),
        ({"architecture": "swin_tiny_patch4_window7_224"}, "Swin"),
        ({"mean": "a,b,c"}, "mean"),
        ({"std": "0,0,0"}, "std"),
    ],
)
def test_metadata_that_cannot_be_used(tmp_path, source_file, metadata, word):
    save_file(load_file(source_file), tmp_path / "m.safetensors", metadata)
    refuse(tmp_path / "m.safetensors", word)


def test_shapes_that_are_no_plain_vit(tmp_path, source_file):
    for key, shape in (("patch_embed.proj.weight", (128, 3, 2, 8, 8)), ("cls_token", (128,)), ("pos_embed", (26, 128))):
        save_file(load_file(source_file) | {key: torch.zeros(shape)}, tmp_path / "m.safetensors")
        refuse(tmp_path / "m.safetensors", str(shape))


def test_a_target_knows_the_sources_normalisation(source_file):
    import timm.data

    target = gta.new_target(gta.load_source(source_file), 3)
    config = timm.data.resolve_model_data_config(target)
    assert (config["mean"], config["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_heads_that_cannot_be_told_must_be_given(tmp_path):
    model = tiny_vit(embed_dim=96, num_heads=4, num_classes=0).eval()
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    refuse(tmp_path / "m.safetensors", "96", "heads=N")
    refuse(tmp_path / "m.safetensors", "heads=0", heads=0)
    assert torch.equal(gta.load_source(tmp_path / "m.safetensors", heads=4)(images()), model(images()))


def test_sizes_the_patches_do_not_divide_are_refused(source_file):
    refuse(source_file, "44", "40 or 48", image_size=44)
    refuse(source_file, "-8", image_size=-8)


def test_missing_and_strange_files_are_refused(tmp_path):
    refuse("nowhere.safetensors", "nowhere.safetensors", "timm:NAME")
    refuse("vit_small_patch16_224.dino", "timm:NAME")
    (tmp_path / "a.bin").write_bytes(b"1")
    refuse(tmp_path / "a.bin", ".bin", ".safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    refuse(tmp_path / "cut.safetensors", "fetch it again")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut short")
    refuse(tmp_path / "cut.pth", "damaged")
    for name, content in (("empty", b""), ("cut short", b"\x80\x02\x8a")):
        (tmp_path / f"{name}.pth").write_bytes(content)
        refuse(tmp_path / f"{name}.pth", "damaged")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    refuse(tmp_path / "list.pth", "list")


def test_unknown_names_and_an_unreachable_hub_are_explained(monkeypatch):
    refuse("timm:vit_smal_patch16", "vit_smal_patch16")
    real = timm.create_model

    def offline(name, pretrained=False, **more):
        if pretrained:
            raise OSError("no route to host")
        return real(name, **more)

    monkeypatch.setattr(timm, "create_model", offline)
    refuse("timm:vit_tiny_patch16_224.augreg_in21k", "no route to host", "--source FILE", image_size=32)
    refuse("timm:vit_tiny_patch16_224.augreg_in21k", "33", "32 or 48", image_size=33)


def test_hub_weights_are_asked_for_at_the_image_size(monkeypatch):
    real, asked = timm.create_model, []

    def hub(name, pretrained=False, **more):
        asked.append((name, pretrained, more))
        return real(name, **more)

    monkeypatch.setattr(timm, "create_model", hub)
    source = gta.load_source("timm:vit_tiny_patch16_224.augreg_in21k", image_size=32)
    assert asked[-1] == ("vit_tiny_patch16_224.augreg_in21k", True, {"num_classes": 0, "img_size": 32})
    assert source.info.mean == (0.5, 0.5, 0.5)
    assert gta.new_target(source, 3)(images(32)).shape == (2, 3)


def test_the_digest_tells_weights_apart(source_file):
    one, same = gta.load_source(source_file), gta.load_source(source_file)
    assert digest(one) == digest(same)
    with torch.no_grad():
        same.cls_token[0, 0, 0] += 1e-3
    assert digest(one) != digest(same)


real_source = SHARED / "sources" / "dinov2_vits14.fp16.safetensors"


@pytest.mark.skipif(not real_source.is_file(), reason="the real DINOv2 weights are not beside this checkout")
def test_real_dinov2_weights():
    source = gta.load_source(real_source, image_size=126)
    assert source.info.architecture == "vit_small_patch14_dinov2"
    assert source.info.coverage == 1
    tensors, _ = read_checkpoint(real_source)
    name, args = infer_architecture(tensors)
    bare = timm.create_model(name, num_classes=0, **args)
    wanted = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    assert {k: v.shape for k, v in bare.state_dict().items()} == {k: v.shape for k, v in wanted.state_dict().items()}
