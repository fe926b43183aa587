"""Every family of docs/families.md: the penalty and its gradient against the library's own unfused attention."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import transformers
from torch import nn

import gta
from gta.benchmark.meters import MemoryTracker
from gta.vit.attention_logits import QueryKeyPair
from gta.vit.structure import vit_info
from gta.vit.whole_maps import squared_difference
from tests.conftest import spread
from tests.test_examples import ROOT, load

table = load(ROOT / "benchmarks" / "families.py")
FAMILIES = table.FAMILIES


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_penalty_and_gradient_equal_the_unfused_reference(family):
    target, source, images = table.pair(family)
    guided = gta.guide(target, source, weight=1.0, rows=family.rows)
    _, penalty = guided(images, **family.options)
    twin = table.unfused(target)
    wanted = table.reference_penalty(family, twin, table.unfused(source), images)
    torch.testing.assert_close(penalty, wanted, rtol=1e-4, atol=0)
    ours = torch.autograd.grad(penalty, list(target.parameters()), allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(wanted, list(twin.parameters()), allow_unused=True, materialize_grads=True)
    for (name, _), a, b in zip(target.named_parameters(), ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item() + 1e-6, msg=name)
    assert sum(b.abs().sum() for b in theirs) > 0
    torch.testing.assert_close(guided.measure(images, **family.options).mean(), wanted, rtol=1e-4, atol=0)
    assert table.is_fused(family) != family.trained_bias


@pytest.mark.parametrize(
    ("name", "more", "rows", "words"),
    [
        ("swin_tiny_patch4_window7_224", {}, "patches", ["SwinTransformer", "windows"]),
        ("resnet10t", {}, "cls", ["ResNet", "no attention layers"]),
        ("convnext_atto", {}, "patches", ["ConvNeXt", "convolution"]),
        ("efficientvit_b0", {}, "patches", ["EfficientVit", "linear attention"]),
        ("cait_xxs24_224", {}, "cls", ["Cait", "2 stacks"]),
        ("pvt_v2_b0", {}, "patches", ["PyramidVisionTransformerV2", "stacks"]),
        ("xcit_nano_12_p16_224", {}, "cls", ["Xcit", "stacks"]),
        ("mobilevit_xxs", {}, "patches", ["ByobNet", "stacks"]),
        ("vit_medium_patch16_gap_256", {"depth": 2}, "cls", ["no [cls] token", 'rows="patches"']),
        ("vit_tiny_patch16_224", {"depth": 2}, "heads", ["'heads'", '"patches"']),
    ],
)
def test_models_without_readable_rows_are_refused_when_the_guide_is_made(name, more, rows, words):
    model = timm.create_model(name, **more)
    with pytest.raises(gta.GtaError) as refusal:
        gta.guide(model, copy.deepcopy(model), rows=rows)
    assert all(word in str(refusal.value) for word in words)


@pytest.mark.parametrize(
    ("name", "more", "size", "rows", "words"),
    [
        ("convit_tiny", {"depth": 2, "img_size": 64}, 64, "cls", ["GPSA", "custom kernel"]),
        ("samvit_base_patch16", {"depth": 2, "img_size": 64, "embed_dim": 64, "num_heads": 2}, 64, "patches", ["SAM"]),
        ("vit_tiny_patch16_224", {"depth": 2, "patch_drop_rate": 0.5}, 224, "cls", ["98 tokens", "196", "dropped"]),
        ("vit_dlittle_patch16_reg1_gap_256", {"depth": 2}, 256, "patches", ["4 calls", "2 layers"]),
        ("vit_tiny_patch16_224", {"depth": 2}, 224, "pool", ["no attention-pooling head"]),
    ],
)
def test_models_that_show_it_only_when_they_run_are_refused_then(name, more, size, rows, words):
    model = timm.create_model(name, **more).train()
    guided = gta.guide(model, copy.deepcopy(model), rows=rows)
    with pytest.raises(gta.GtaError) as refusal:
        guided(torch.randn(2, 3, size, size))
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize("kernel", ["eager", "flash_attention_2", "flex_attention"])
def test_other_attention_implementations_of_transformers_are_refused_by_name(kernel):
    model = FAMILIES[[f.name for f in FAMILIES].index("transformers ViT")].build()
    other = copy.deepcopy(model)
    other.config._attn_implementation_internal = kernel
    with pytest.raises(gta.GtaError, match=f"attn_implementation='{kernel}'.*sdpa"):
        gta.guide(model, other)


def test_transformers_with_windows_are_refused():
    swin = transformers.SwinModel(transformers.SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[2, 2]))
    with pytest.raises(gta.GtaError, match="SwinModel cannot be guided"):
        gta.guide(swin, copy.deepcopy(swin), rows="patches")


def test_an_encoder_that_shuffles_its_patches_is_refused():
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    mae = transformers.ViTMAEModel(transformers.ViTMAEConfig(**shape, image_size=32, patch_size=8, mask_ratio=0.0))
    with pytest.raises(gta.GtaError, match=r"ViTMAEModel.*shuffles"):
        gta.guide(mae, copy.deepcopy(mae))


@pytest.mark.parametrize("size", [(48, 48), (80, 64)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_full_maps_equal_those_multiplied_out(size, reduction):
    """The Gram form of `rows="patches"` against the N×N maps, for square and other images."""
    from gta.distances import l2

    model = timm.create_model("vit_medium_patch16_gap_256", depth=2, embed_dim=64, num_heads=2, dynamic_img_size=True)
    target = copy.deepcopy(model).train()
    with torch.no_grad():
        target.blocks[0].attn.qkv.weight.add_(torch.randn(192, 64) * 1e-4)  # so close that cancellation would show
    images = torch.randn(2, 3, *size)
    factored = gta.guide(target, model, rows="patches", reduction=reduction)
    full = gta.guide(target, model, rows="patches", reduction=reduction, distance=lambda t, s, r: l2(t, s, r))
    torch.testing.assert_close(factored(images)[1], full(images)[1], rtol=1e-3, atol=0)
    same = gta.guide(copy.deepcopy(model).train(), model, rows="patches", reduction=reduction)
    assert same(images)[1] == 0


def test_all_rows_are_the_whole_map_without_prefix_tokens():
    """Value and gradient against float64 maps multiplied out, with [cls] and registers left out on both sides."""
    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, reg_tokens=3, num_classes=0).eval()
    target = spread(copy.deepcopy(source), 0.02).train()
    images = torch.randn(2, 3, 64, 64)
    penalty = gta.guide(target, source, rows="all", weight=1.0)(images)[1]
    names = ("blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight", "patch_embed.proj.weight")
    ours = torch.autograd.grad(penalty, [target.get_parameter(n) for n in names])
    exact = copy.deepcopy(target).double()
    maps = [whole_maps(model, images.double()) for model in (exact, copy.deepcopy(source).double())]
    wanted = torch.stack([(t - s.detach()).square().mean() for t, s in zip(*maps, strict=True)]).mean()
    theirs = torch.autograd.grad(wanted, [exact.get_parameter(n) for n in names])
    assert float(penalty.detach()) == pytest.approx(float(wanted), rel=1e-4)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-4


def whole_maps(model, images):
    maps = []

    def hook(attn, inputs, _):
        b, n, _c = inputs[0].shape
        q, k, _ = attn.qkv(inputs[0]).reshape(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        maps.append((q @ k.transpose(-2, -1) * attn.scale)[:, :, 4:, 4:])

    handles = [block.attn.register_forward_hook(hook) for block in model.blocks]
    model(images)
    for handle in handles:
        handle.remove()
    return maps


def test_whole_maps_are_never_in_memory():
    q, k = (torch.randn(2, 3, 600, 16, requires_grad=True) for _ in range(2))
    held = QueryKeyPair(*(torch.randn(2, 3, 600, 16) for _ in range(2)), 0.25, None)
    with MemoryTracker() as memory:
        squared_difference(QueryKeyPair(q, k, 0.25, None), held).sum().backward()
    assert memory.peak < 2 * 3 * 600 * 600 * 4 / 2  # half of one map


def test_whole_maps_of_differently_scaled_logits():
    generator = torch.Generator().manual_seed(0)
    q, k, qs, ks = (torch.randn(2, 3, 7, 5, generator=generator, dtype=torch.float64) for _ in range(4))
    q.requires_grad_(), k.requires_grad_()
    ours = squared_difference(QueryKeyPair(q, k, 0.3, None), QueryKeyPair(qs, ks, 0.5, None))
    wanted = (0.3 * q @ k.mT - 0.5 * qs @ ks.mT).square().mean((-2, -1))
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(ours.sum(), (q, k)), torch.autograd.grad(wanted.sum(), (q, k)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_wrapped_model_has_the_structure_of_the_model():
    model = timm.create_model("vit_tiny_patch16_224", depth=2)
    wrapped = nn.Sequential(model, nn.Linear(1000, 2))
    assert (vit_info(wrapped).depth, vit_info(wrapped).stack) == (2, "0.blocks")
