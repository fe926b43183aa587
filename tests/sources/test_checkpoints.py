"""Checkpoints in the layouts their authors publish, against the authors' own arrangement; and hostile ones."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import gta
from gta.cli import main
from gta.sources.checkpoints.mae import sin_cos_positions
from gta.sources.layout import Converted, Layout
from gta.sources.recognition import LAYOUTS
from gta.sources.shapes import infer_architecture
from tests.sources import originals as o

BAG = argparse.Namespace(arch="vit_small", lr=1e-3)  # DINO, iBOT and MAE keep their options so


def written(path: Path, content: object) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in content.items()})
    elif path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def agrees(path: Path, expected: torch.Tensor, layout: str, **more: object) -> torch.nn.Module:
    """The loaded source gives these tokens, knows its layout, and uses every key of its own."""
    source = gta.load_source(path, **more)
    torch.testing.assert_close(source.forward_features(o.images()), expected, rtol=2e-4, atol=2e-4)
    assert layout in source.info.layout
    assert source.info.coverage == 1
    return source


def plain(seed: int = 0, **more: object) -> o.Tensors:
    return o.random_tensors(o.plain_shapes(**more), seed)


def prefixed(w: o.Tensors, prefix: str) -> o.Tensors:
    return {prefix + k: v for k, v in w.items()}


DINO_HEAD = {"head.mlp.0.weight": torch.ones(4, 4), "head.last_layer.weight_g": torch.ones(4, 1)}
CLASSIFIER = {"head.weight": torch.ones(9, o.WIDTH), "head.bias": torch.ones(9)}
WRAPPED = {
    "dino_deitsmall16_pretrain.pth": lambda w: w,
    "dino_full_checkpoint.pth": lambda w: {
        "student": prefixed(plain(5), "module.backbone.") | prefixed(DINO_HEAD, "module."),
        "teacher": prefixed(w, "backbone.") | DINO_HEAD,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 100,
        "args": BAG,
        "dino_loss": {"center": torch.zeros(1, 4)},
    },
    "ibot_checkpoint_teacher.pth": lambda w: {"state_dict": w},
    "ibot_checkpoint.pth": lambda w: {
        "student": prefixed(plain(5) | {"masked_embed": torch.zeros(1, o.WIDTH)}, "module.backbone."),
        "teacher": prefixed(w, "backbone.") | DINO_HEAD,
        "args": BAG,
    },
    "deit_small_patch16_224.pth": lambda w: {"model": w | CLASSIFIER},
    "timm_model_best.pth.tar": lambda w: {"state_dict": plain(5), "state_dict_ema": w, "arch": "vit", "args": BAG},
    "lightning.ckpt": lambda w: {
        "state_dict": prefixed(w, "model.") | {"criterion.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": {"lr": 1e-3},
        "callbacks": {},
        "loops": {},
    },
    "lightly_dino.ckpt": lambda w: {
        "state_dict": prefixed(plain(5), "student_backbone.vit.") | prefixed(w, "teacher_backbone.vit.")
    },
    "lightly_train_exported_last.pt": lambda w: w,
    "lightly_train_last.ckpt": lambda w: {
        "state_dict": prefixed(plain(5), "student_embedding_model.wrapped_model._model.")
        | prefixed(w, "teacher_embedding_model.wrapped_model._model.")
    },
    "pytorch_model.bin": lambda w: w,
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_plain_names_in_everybodys_wrapping(tmp_path, name):
    w = plain()
    agrees(written(tmp_path / name, WRAPPED[name](w)), o.plain_tokens(w, o.images()), "a plain ViT")


def test_ibots_student_alone(tmp_path):
    w = plain()
    content = {"student": prefixed(w | {"masked_embed": torch.zeros(1, o.WIDTH)}, "module.backbone.")}
    agrees(written(tmp_path / "s.pth", content), o.plain_tokens(w, o.images()), "iBOT")


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("wrapping", ["backbone", "teacher of a training checkpoint"])
def test_dinov2(tmp_path, registers, wrapping):
    w = plain(scaled=True) | {"mask_token": torch.randn(1, o.WIDTH)}
    if registers:
        w["register_tokens"] = torch.randn(1, registers, o.WIDTH)
    content = w
    if wrapping != "backbone":  # blocks are counted by chunk as well
        chunked = {
            k.replace("blocks.", f"blocks.{int(k.split('.')[1]) // 2}.") if "blocks." in k else k: v
            for k, v in w.items()
        }
        content = {"teacher": prefixed(chunked, "backbone.") | {"dino_head.last_layer.weight_v": torch.ones(3, 3)}}
    source = agrees(written(tmp_path / "m.pth", content), o.plain_tokens(w, o.images()), "DINOv2")
    assert source.num_prefix_tokens == 1 + registers
    assert wrapping != "backbone" or source.info.unexpected == ()


def test_dinov2_giant_has_a_gated_mlp(tmp_path):
    w, hidden = plain(scaled=True) | {"mask_token": torch.zeros(1, o.WIDTH)}, 344
    for i in range(o.DEPTH):
        at = f"blocks.{i}.mlp."
        w = {k: v for k, v in w.items() if not k.startswith(at)}
        w |= o.random_tensors(
            {f"{at}w12.weight": (2 * hidden, o.WIDTH), f"{at}w12.bias": (2 * hidden,),
             f"{at}w3.weight": (o.WIDTH, hidden), f"{at}w3.bias": (o.WIDTH,)}, i
        )  # fmt: skip
    agrees(written(tmp_path / "g.pth", w), o.plain_tokens(w, o.images()), "DINOv2")


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_dinov3(tmp_path, biased, gated):
    if not timm.is_model("vit_small_plus_patch16_dinov3_qkvb"):
        pytest.skip("this timm has no DINOv3")
    shapes = o.plain_shapes(scaled=True) | {"storage_tokens": (1, 4, o.WIDTH), "mask_token": (1, o.WIDTH)}
    del shapes["pos_embed"]
    if gated:
        for i in range(o.DEPTH):
            at = f"blocks.{i}.mlp."
            shapes = {k: s for k, s in shapes.items() if not k.startswith(at)}
            for n in ("w1", "w2", "w3"):
                size = (o.WIDTH, 256) if n == "w3" else (256, o.WIDTH)
                shapes |= {f"{at}{n}.weight": size, f"{at}{n}.bias": size[:1]}
    w = o.random_tensors(shapes)
    for i in range(o.DEPTH):
        bias, mask = w[f"blocks.{i}.attn.qkv.bias"], torch.ones(3 * o.WIDTH)
        mask[o.WIDTH : 2 * o.WIDTH] = 0
        w[f"blocks.{i}.attn.qkv.bias_mask"] = mask
        w[f"blocks.{i}.attn.qkv.bias"] = bias if biased else torch.zeros_like(bias)
    w["rope_embed.periods"] = 100 ** (torch.arange(16) / 16)
    path = written(tmp_path / "dinov3_vits16_pretrain.pth", w)
    source = agrees(path, o.dinov3_tokens(w, o.images()), "DINOv3", image_size=o.SIZE)
    assert source.num_prefix_tokens == 5
    target = gta.new_target(source, 3)
    logits, penalty = gta.guide(target, source)(o.images())
    assert logits.shape == (2, 3)
    assert penalty == 0
    with torch.no_grad():
        target.blocks[0].attn.qkv.weight.mul_(1.1)
    assert gta.guide(target, source)(o.images())[1] > 0


@pytest.mark.parametrize("kind", ["mae_pretrain_vit_base.pth", "checkpoint-799.pth", "mae_finetuned_vit_base.pth"])
def test_mae_with_its_positions_and_norms(tmp_path, kind):
    w = plain() | {"pos_embed": o.mae_positions()}
    torch.testing.assert_close(sin_cos_positions(o.GRID, o.WIDTH), w["pos_embed"])
    content, final = {"model": w}, "norm"
    if "checkpoint" in kind:  # the whole autoencoder
        content = {
            "model": w | {"decoder_embed.weight": torch.ones(8, o.WIDTH), "mask_token": torch.zeros(1, 1, 8)},
            "args": BAG,
        }
    if "finetuned" in kind:  # mean over patches, then fc_norm; no norm
        w = {k.replace("norm.", "fc_norm.") if k.startswith("norm.") else k: v for k, v in w.items()}
        content, final = {"model": w | CLASSIFIER}, "fc_norm"
    source = gta.load_source(written(tmp_path / kind, content))
    assert source.info.layout == "MAE"
    assert source.info.coverage == 1
    if final == "norm":
        expected = o.plain_tokens(w, o.images())
        torch.testing.assert_close(source.forward_features(o.images()), expected, rtol=2e-4, atol=2e-4)
        torch.testing.assert_close(source(o.images()), expected[:, 0], rtol=2e-4, atol=2e-4)
    else:
        plain_norm = {"one.weight": torch.ones(o.WIDTH), "one.bias": torch.zeros(o.WIDTH)}
        raw = source.forward_features(o.images())  # no norm here: fc_norm follows the mean
        pooled = o.norm(w, "fc_norm", raw[:, 1:].mean(1))
        torch.testing.assert_close(source(o.images()), pooled, rtol=2e-4, atol=2e-4)
        expected = o.plain_tokens(w | plain_norm, o.images(), final="one")
        torch.testing.assert_close(o.norm(plain_norm, "one", raw), expected, rtol=2e-4, atol=2e-4)


def test_mocov3_takes_the_base_encoder_with_its_twelve_heads(tmp_path):
    """ViT-S of MoCo v3 has 12 heads of 32 channels: with 6 the numbers would be others."""
    w = plain(width=384) | {"pos_embed": o.moco_positions(384)}
    content = {
        "epoch": 300,
        "arch": "vit_small",
        "state_dict": prefixed(w, "module.base_encoder.")
        | prefixed(plain(7, width=384), "module.momentum_encoder.")
        | {"module.base_encoder.head.0.weight": torch.ones(4, 4), "module.predictor.0.weight": torch.ones(4, 4)},
        "optimizer": {"state": {}, "param_groups": []},
    }
    source = agrees(
        written(tmp_path / "vit-s-300ep.pth.tar", content), o.plain_tokens(w, o.images(), heads=12), "MoCo v3"
    )
    assert source.blocks[0].attn.num_heads == 12


def test_mocov3s_encoder_alone_is_known_by_its_positions(tmp_path):
    """The linear evaluation's files have plain names; the 12 heads must not be forgotten."""
    w = plain(width=384) | {"pos_embed": o.moco_positions(384)}
    content = {"state_dict": prefixed(w, "module.") | {"module.head.weight": torch.ones(9, 384)}, "arch": "vit_small"}
    agrees(written(tmp_path / "linear-vit-s.pth.tar", content), o.plain_tokens(w, o.images(), heads=12), "MoCo v3")


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_beit_and_simmim_where_they_are_plain(tmp_path, prefix):
    w = plain()
    for i in range(o.DEPTH):
        q, _, v = w.pop(f"blocks.{i}.attn.qkv.bias").chunk(3)
        w |= {f"blocks.{i}.attn.q_bias": q, f"blocks.{i}.attn.v_bias": v}
        w |= {f"blocks.{i}.gamma_{k}": torch.rand(o.WIDTH) for k in (1, 2)}
    expected = o.plain_tokens(w, o.images())
    agrees(
        written(tmp_path / "b.pth", {"model": prefixed(w | {"mask_token": torch.zeros(1, 1, o.WIDTH)}, prefix)}),
        expected,
        "BEiT",
    )
    w["blocks.0.attn.relative_position_bias_table"] = torch.ones(84, 2)
    with pytest.raises(gta.GtaError, match=r"relative position bias \(blocks\.0\.attn\.relative_position_bias_table\)"):
        gta.load_source(written(tmp_path / "r.pth", {"model": prefixed(w, prefix)}))


@pytest.mark.parametrize(("prefix", "big", "stacked"), [
    ("", False, False), ("opt/target/", False, False), ("params/", True, False), ("params/", True, True),
])  # fmt: skip
def test_augreg_and_big_vision(tmp_path, prefix, big, stacked):
    w = o.random_tensors(o.jax_shapes(big=big, heads=4))  # 4 heads of 32 channels: the file tells
    content = dict(w)
    if stacked:
        at = "Transformer/encoderblock_0/"
        for name in [k.removeprefix(at) for k in w if k.startswith(at)]:
            parts = [content.pop(f"Transformer/encoderblock_{i}/{name}") for i in range(o.DEPTH)]
            content[f"Transformer/encoderblock/{name}"] = torch.stack(parts)
    path = written(tmp_path / "ViT-S_16.npz", prefixed(content, prefix))
    source = agrees(path, o.jax_tokens(w, o.images()), "big_vision" if big else "AugReg")
    assert source.info.mean == source.info.std == (0.5, 0.5, 0.5)
    assert source.blocks[0].attn.num_heads == 4


def test_big_vision_in_half_precision(tmp_path):
    """numpy has no bfloat16: the authors' files hold two bytes without a type."""
    w = {k: v.bfloat16() for k, v in o.random_tensors(o.jax_shapes(big=True)).items()}
    arrays = {f"params/{k}": v.view(torch.int16).numpy().view("V2") for k, v in w.items()}
    np.savez(tmp_path / "b.npz", **arrays, step=np.array(3))
    agrees(tmp_path / "b.npz", o.jax_tokens({k: v.float() for k, v in w.items()}, o.images()), "big_vision")


def test_siglips_image_tower(tmp_path):
    w = o.random_tensors({k: s for k, s in o.jax_shapes(cls=False, big=True, pooled=True).items() if "head/" not in k})
    texts = {"params/txt/Embed_0/embedding": torch.ones(3, 3), "params/t": torch.ones(1)}
    path = written(tmp_path / "siglip.npz", prefixed(w, "params/img/") | texts)
    tokens = o.jax_tokens(w, o.images())
    source = agrees(path, tokens, "big_vision")
    torch.testing.assert_close(source(o.images()), o.jax_pooled(w, tokens), rtol=2e-4, atol=2e-4)
    with pytest.raises(gta.GtaError, match=r"no \[cls\] token"):
        gta.guide(gta.new_target(source, 3), source)


@pytest.mark.parametrize("prefix", ["", "visual.trunk."])
@pytest.mark.parametrize("name", ["siglip", "siglip_gap"])
def test_siglip_under_timms_names(tmp_path, prefix, name):
    """As OpenCLIP publishes it too: its pooling head, or its norm before the mean, must not be lost."""
    args = {"img_size": 40, "patch_size": 8, "embed_dim": 128, "depth": 12, "num_heads": 2, "num_classes": 0}
    model = timm.create_model(f"vit_base_patch16_{name}_224", **args).eval()
    torch.nn.init.uniform_(model.norm.weight)
    source = gta.load_source(written(tmp_path / "s.bin", prefixed(model.state_dict(), prefix)))
    torch.testing.assert_close(source(o.images()), model(o.images()))
    assert source.info.coverage == 1


def test_registers_do_not_confuse_the_number_of_positions(tmp_path):
    """9 positions and 5 prefix tokens: 3×3 patches, not 2×2 and the prefix."""
    w = plain(scaled=True, positions=10) | {"mask_token": torch.zeros(1, o.WIDTH)}
    w["register_tokens"] = torch.randn(1, 4, o.WIDTH)
    assert gta.load_source(written(tmp_path / "r.pth", w)).info.image_size == 24


def test_openais_clip(tmp_path):
    w = o.random_tensors(o.clip_shapes())
    about = {"input_resolution": torch.tensor(40), "context_length": torch.tensor(77), "vocab_size": torch.tensor(11)}
    source = agrees(written(tmp_path / "clip.pt", w | about), o.clip_tokens(w, o.images(), quick=True), "CLIP")
    assert source.info.mean[0] == pytest.approx(0.4814, abs=1e-4)


def test_openclip_has_gelu_unless_its_metadata_says_otherwise(tmp_path):
    w = o.random_tensors(o.clip_shapes())
    path = written(tmp_path / "clip.pt", {"state_dict": prefixed(w, "module.")})
    with pytest.warns(UserWarning, match="GELU is taken"):
        agrees(path, o.clip_tokens(w, o.images(), quick=False), "CLIP")
    args = {"img_size": 40, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2}
    about = {"architecture": "vit_base_patch16_clip_quickgelu_224", "model_args": json.dumps(args)}
    save_file(w, tmp_path / "quick.safetensors", about)
    agrees(tmp_path / "quick.safetensors", o.clip_tokens(w, o.images(), quick=True), "CLIP")


def test_openclips_timm_tower(tmp_path):
    w = plain()
    content = prefixed(w, "visual.trunk.") | {
        "visual.head.proj.weight": torch.ones(4, o.WIDTH),
        "logit_scale": torch.ones(()),
    }
    agrees(written(tmp_path / "oc.pt", content), o.plain_tokens(w, o.images()), "a plain ViT")


def test_heads_of_the_wide_models():
    """ViT-H of MAE and OpenCLIP has 16 heads of 80 channels, not 20 of 64; DINOv2's ViT-g 24 of 64."""
    for width, heads in ((192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 16), (1536, 24), (1664, 16)):
        shapes = o.plain_shapes(width=width)
        tensors = {k: torch.empty(s, device="meta") for k, s in shapes.items()}
        assert infer_architecture(tensors)[1]["num_heads"] == heads


def refusal(path: Path) -> str:
    with pytest.raises(gta.GtaError) as refused:
        gta.load_source(path)
    return str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({k: v for k, v in plain().items() if "patch_embed" not in k},
         ("a plain ViT", "lacks patch_embed.proj.weight", "cls_token")),
        ({k: v for k, v in o.random_tensors(o.clip_shapes()).items() if "class_emb" not in k},
         ("CLIP's image tower", "lacks visual.class_embedding")),
        ({k.replace("blocks.", "layers."): v for k, v in plain().items()},
         ("not a plain ViT", "lacks blocks.0.norm1.weight", "layers.0")),
        (prefixed({k: v for k, v in plain().items() if k != "patch_embed.proj.weight"}, "module.base_encoder."),
         ("MoCo v3", "lacks base_encoder.patch_embed.proj.weight")),
        ({"vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(3, 3)},
         ("no known layout", "q_proj", "transformers' names", "config.json")),
    ],
)  # fmt: skip
def test_the_nearest_layout_and_what_differs_are_named(tmp_path, content, words):
    told = refusal(written(tmp_path / "wrong.pth", content))
    assert not [w for w in words if w not in told], told


def test_a_partial_file_is_refused_under_its_layouts_name(tmp_path):
    w = {k: v for k, v in plain().items() if not k.startswith("blocks.1.")}
    path = written(tmp_path / "part.pth", {"state_dict": prefixed(w, "module.base_encoder.")})
    told = refusal(path)
    assert "read as MoCo v3, fills only" in told
    assert "blocks.1.norm1.weight" in told


@pytest.mark.parametrize("change", ["left out", "of another shape", "whole numbers"])
def test_a_file_without_one_matrix_is_partial(tmp_path, change):
    """42 of 43 keys are more than 95 %, but nobody guides towards random weights."""
    w = plain()
    key = "blocks.1.attn.qkv.weight"
    w[key] = {"left out": w[key], "of another shape": w[key][1:], "whole numbers": w[key].long()}[change]
    if change == "left out":
        del w[key]
    assert "Missing: blocks.1.attn.qkv.weight." in refusal(written(tmp_path / "p.pth", w))


def test_a_hybrid_with_a_resnet_is_refused(tmp_path):
    w = o.random_tensors(o.jax_shapes() | {"embedding/kernel": (1, 1, 64, o.WIDTH), "conv_root/kernel": (7, 7, 3, 8)})
    assert "R26.npz: this is a hybrid" in refusal(written(tmp_path / "R26.npz", w))


def test_a_layout_of_ones_own_works_everywhere(tmp_path, monkeypatch, capsys):
    """Added at run time; as a file in `gta/sources/checkpoints` it would be found by itself."""

    def convert(tensors):
        return Converted({k.replace("layers.", "blocks."): v for k, v in tensors.items() if k != "our_token"})

    w = plain()
    ours = {k.replace("blocks.", "layers."): v for k, v in w.items()} | {"our_token": torch.ones(3)}
    path = written(tmp_path / "ours.pth", {"model": prefixed(ours, "module.")})
    assert "The nearest is" in refusal(path)
    LAYOUTS.add("ours", Layout("our own ViT", convert, required_keys=("our_token",)))
    try:
        agrees(path, o.plain_tokens(w, o.images()), "our own ViT")
        assert main(["source", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["layout"], found["coverage"], found["unexpected_keys"]) == ("our own ViT", "100.0%", [])
        LAYOUTS.add("theirs", Layout("their ViT", convert, required_keys=("our_token",)))
        assert "can be read as our own ViT and as their ViT" in refusal(path)
        LAYOUTS.add("theirs", Layout("their ViT", convert, required_keys=("our_token",), precedence=2))
        assert gta.load_source(path).info.layout == "our own ViT"
    finally:
        for name in ("ours", "theirs"):
            LAYOUTS.remove(name)


def test_a_model_beside_the_chosen_one_is_not_mixed_into_it(tmp_path):
    """A teacher without registers beside a whole DINOv2 with registers."""
    w, student = plain(), plain(5, scaled=True) | {"mask_token": torch.zeros(1, o.WIDTH)}
    student["register_tokens"] = torch.randn(1, 4, o.WIDTH)
    agrees(written(tmp_path / "b.pth", student | prefixed(w, "teacher.")), o.plain_tokens(w, o.images()), "a plain ViT")


def test_ibots_student_with_layer_scale(tmp_path):
    w = plain() | {f"blocks.{i}.gamma_{k}": torch.rand(o.WIDTH) for i in range(o.DEPTH) for k in (1, 2)}
    path = written(tmp_path / "i.pth", w | {"masked_embed": torch.zeros(1, o.WIDTH)})
    agrees(path, o.plain_tokens(w, o.images()), "iBOT")


@pytest.mark.parametrize("change", ["cut short", "of another shape"])
def test_a_damaged_npz_is_refused_under_its_layouts_name(tmp_path, change):
    w = o.random_tensors(o.jax_shapes())
    at = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/"
    if change == "cut short":
        del w[f"{at}bias"]
    else:
        w[f"{at}kernel"] = torch.ones(3)
    assert "read as AugReg's .npz, it is partial or damaged" in refusal(written(tmp_path / "d.npz", w))


def test_a_dinov3_with_a_million_blocks_is_not_built(tmp_path):
    w = plain() | {"storage_tokens": torch.ones(1, 4, o.WIDTH), "rope_embed.periods": torch.ones(16)}
    w |= {"blocks.999999.norm1.weight": torch.ones(3)}
    assert "numbers a block 999,999" in refusal(written(tmp_path / "deep.pth", w))
