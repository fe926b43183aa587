"""The heart: the penalty's value, its gradient, and everything it must refuse."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import gta
from gta.vit.attention_logits import AttentionLogits
from gta.vit.structure import vit_info
from tests.conftest import reference_rows, spread, tiny_vit

B, H, N = 3, 2, 25


@pytest.fixture
def pair():
    source = tiny_vit()
    return spread(copy.deepcopy(source)), source


@pytest.fixture
def images():
    return torch.randn(B, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def test_penalty_is_the_mean_squared_row_difference(pair, images):
    target, source = pair
    _, penalty = gta.guide(target, source, weight=10.0)(images)
    t, s = (torch.stack(reference_rows(m, images)) for m in (target, source))
    torch.testing.assert_close(penalty.double(), 10 * (t - s).square().mean(), rtol=1e-5, atol=0)


def test_penalty_solved_by_hand():
    """One head of width 2, one layer whose q and k are the embedded tokens themselves."""

    class Attention(nn.Module):
        num_heads = 1

        def __init__(self, factor):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor))

        def forward(self, tokens):
            q = (tokens * self.factor)[:, None]
            return F.scaled_dot_product_attention(q, tokens[:, None], tokens[:, None])[:, 0]

    class Hand(nn.Module):
        num_prefix_tokens, cls_token, dynamic_img_size = 1, True, True

        def __init__(self, factor):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Module()])
            self.blocks[0].attn = Attention(factor)
            self.patch_embed = nn.Module()
            self.patch_embed.patch_size, self.patch_embed.dynamic_img_pad = (1, 1), True

        def forward(self, images):
            tokens = torch.tensor([[[1.0, 1.0], [1.0, 2.0], [0.0, -1.0]]])  # [cls] and two patches
            return self.blocks[0].attn(tokens)

    target, source = Hand(2.0), Hand(1.0)
    # rows: source [3, -1]/√2, target twice that; squared differences 9/2 and 1/2
    image = torch.zeros(1, 3, 1, 2)
    guided = gta.guide(target, source, weight=4.0)
    assert guided(image)[1].item() == pytest.approx(4 * (4.5 + 0.5) / 2)
    summed = gta.guide(target, source, weight=4.0, reduction="sum")
    _, penalty = summed(image)
    assert penalty.item() == pytest.approx(4 * (4.5 + 0.5))
    penalty.backward()  # penalty = 4·5·(f−1)², so its slope at f = 2 is 40
    assert target.blocks[0].attn.factor.grad.item() == pytest.approx(40)


@pytest.mark.parametrize(
    ("name", "size", "more"),
    [
        ("vit_tiny_patch16_224", 224, {}),
        ("vit_tiny_patch16_224", 96, {"img_size": 96}),
        ("vit_tiny_patch16_224", 96, {"img_size": 96, "qk_norm": True, "global_pool": "avg"}),
        ("deit3_small_patch16_224", 224, {}),
        ("deit3_small_patch16_224", 80, {"img_size": 80}),
        ("deit_tiny_distilled_patch16_224", 224, {}),
        ("deit_tiny_distilled_patch16_224", 64, {"img_size": 64}),
        ("vit_small_patch14_reg4_dinov2", 224, {"img_size": 224}),
        ("vit_small_patch14_reg4_dinov2", 126, {"img_size": 126}),
        ("vit_small_patch14_dinov2", (70, 98), {"dynamic_img_size": True}),
    ],
)
def test_penalty_of_timm_families_equals_the_unfused_reference(name, size, more):
    torch.manual_seed(0)
    source = spread(timm.create_model(name, num_classes=5, depth=3, **more), 0.02)
    target = spread(copy.deepcopy(source), 0.02)
    height, width = size if isinstance(size, tuple) else (size, size)
    images = torch.randn(2, 3, height, width)
    guided = gta.guide(target, source, weight=3.0, layers=[0, -1])
    _, penalty = guided(images)
    t, s = ([reference_rows(m, images)[i] for i in (0, 2)] for m in (target, source))
    expected = 3 * torch.stack([(a - b).square() for a, b in zip(t, s, strict=True)]).mean()
    torch.testing.assert_close(penalty.double(), expected, rtol=1e-5, atol=0)


def test_gradient_equals_the_references(pair, images):
    target, source = pair
    twin = copy.deepcopy(target)
    gta.guide(target, source, weight=2.0)(images)[1].backward()
    with torch.no_grad():
        s = torch.stack(reference_rows(source, images))
    (2 * (torch.stack(reference_rows(twin, images)) - s).square().mean()).backward()
    for (name, ours), theirs in zip(target.named_parameters(), twin.parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None or not ours.grad.any(), name
        else:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7, msg=name)
    assert target.blocks[2].attn.qkv.weight.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in source.parameters())


def test_the_rows_gradient_is_added_to_one_that_cannot_be_written_to():
    """A sum hands out one number expanded to the shape of what it summed."""
    torch.manual_seed(0)
    q, k = (torch.randn(2, 3, 6, 4, requires_grad=True) for _ in range(2))
    tap = AttentionLogits(vit_info(tiny_vit()), [0])
    query, key, _ = tap.attention(q, k, k)
    (query.sum() + 2 * key.sum() + tap._read[0].float().square().sum()).backward()
    ours = q.grad, k.grad
    q.grad = k.grad = None
    row = torch.einsum("bhd,bhnd->bhn", q[:, :, 0], k[:, :, 1:]) / 2
    (q.sum() + 2 * k.sum() + row.square().sum()).backward()
    for a, b in zip(ours, (q.grad, k.grad), strict=True):
        torch.testing.assert_close(a, b)


def test_identical_models_give_exactly_zero(images):
    source = tiny_vit()
    _, penalty = gta.guide(copy.deepcopy(source), source)(images)
    assert penalty.item() == 0.0


def test_weight_zero_trains_bit_identically_to_plain(images):
    labels = torch.tensor([0, 1, 2])
    plain, guided_model = tiny_vit(drop_path_rate=0.3), tiny_vit(drop_path_rate=0.3)
    guided = gta.guide(guided_model, tiny_vit(seed=5), weight=0.0)
    for model, run in ((plain, lambda x: (plain(x), 0.0)), (guided_model, guided)):
        torch.manual_seed(3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(3):
            logits, penalty = run(images)
            (F.cross_entropy(logits, labels) + penalty).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), guided_model.parameters(), strict=True))


def test_training_with_the_guide_keeps_the_rows_nearer_the_source(images):
    source = tiny_vit()
    drift = {}
    for weight in (0.0, 10.0):
        model = copy.deepcopy(source)
        guided = gta.guide(model, copy.deepcopy(source), weight=weight)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(15):
            logits, penalty = guided(images)
            (F.cross_entropy(logits, torch.tensor([0, 1, 2])) + penalty).backward()
            optimizer.step()
            optimizer.zero_grad()
        drift[weight] = guided.measure(images).mean().item()
    assert drift[10.0] < 0.5 * drift[0.0]


def test_float32_rows_under_autocast(pair, images):
    target, source = pair
    with torch.autocast("cpu", torch.bfloat16):
        logits, penalty = gta.guide(target, source)(images)
    assert logits.dtype == torch.bfloat16
    assert penalty.dtype == torch.float32
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is F.scaled_dot_product_attention:
                seen.append(args[:2])
            return func(*args, **(kwargs or {}))

    tap = AttentionLogits(vit_info(target), [0, 1, 2])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), tap, Watch():
        target(images)
        for row, (q, k) in zip([row.float() for row in tap._read], seen, strict=True):
            assert q.dtype == torch.bfloat16
            exact = (q.double()[:, :, :1] @ k.double()[:, :, 1:].mT).squeeze(-2) / 8
            torch.testing.assert_close(row.double(), exact, rtol=1e-5, atol=1e-6)  # bf16 would be off by 4e-3


def test_attention_stays_fused_and_no_map_is_built(pair, images, monkeypatch):
    target, source = pair
    shapes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            shapes.extend((func.__name__, tuple(t.shape)) for t in [out] if isinstance(t, torch.Tensor))
            return out

    with Watch():
        gta.guide(target, source)(images)
    tokens = N + 1
    assert not [s for s in shapes if s[1][-2:] in ((tokens, tokens), (N, N), (tokens, N))]
    assert all(block.attn.fused_attn for block in [*target.blocks, *source.blocks])


def test_source_stops_after_the_last_guided_query_and_key(pair, images):
    target, source = pair
    ran = []
    for i, block in enumerate(source.blocks):
        block.attn.qkv.register_forward_hook(lambda *_, i=i: ran.append(f"qkv{i}"))
        block.mlp.register_forward_hook(lambda *_, i=i: ran.append(f"mlp{i}"))
    gta.guide(target, source, layers=[0, 1])(images)
    assert ran == ["qkv0", "mlp0", "qkv1"]


def test_eval_mode_runs_no_source(pair, images):
    target, source = pair
    guided = gta.guide(target, source)
    source.patch_embed.register_forward_hook(lambda *_: pytest.fail("the source ran"))
    guided.eval()
    logits, penalty = guided(images)
    assert penalty.item() == 0.0
    assert torch.equal(logits, target(images))
    guided.train()
    assert not source.training


def test_measure_gives_layers_by_heads_and_leaves_modes_alone(pair, images):
    target, source = pair
    target.train()
    target.blocks[1].eval()
    measured = gta.guide(target, source, layers=[0, 2]).measure(images)
    t, s = (torch.stack([reference_rows(m, images)[i] for i in (0, 2)]) for m in (target, source))
    assert measured.shape == (2, H)
    torch.testing.assert_close(measured.double(), (t - s).square().mean((1, 3)), rtol=1e-5, atol=0)
    assert target.training
    assert not target.blocks[1].training
    assert not measured.requires_grad


def test_state_dict_and_parameters_have_no_trace_of_the_source(pair):
    target, source = pair
    guided = gta.guide(target, source)
    assert guided.model is target
    assert guided.source is source
    assert set(target.state_dict()) == set(tiny_vit().state_dict())
    assert set(guided.state_dict()) == {f"model.{k}" for k in target.state_dict()}
    assert {id(p) for p in guided.parameters()} == {id(p) for p in target.parameters()}


def test_source_follows_to(pair):
    target, source = pair
    gta.guide(target, source).to(torch.float64)
    assert source.cls_token.dtype == torch.float64


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", (0, 1, 2)), ("last", (2,)), ([-1, 0], (0, 2)), (1, (1,)), ([2, -1], (2,))],
)
def test_layers(pair, layers, expected):
    assert gta.guide(*pair, layers=layers).layers == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": [3]}, ["3", "-3 to 2"]),
        ({"layers": [-4]}, ["-4", "3 layers"]),
        ({"layers": []}, ["at least one"]),
        ({"layers": "first"}, ["first", "all"]),
        ({"layers": [0.5]}, ["0.5"]),
        ({"weight": -1.0}, ["-1.0"]),
        ({"weight": float("nan")}, ["nan"]),
        ({"distance": "l3"}, ["l3", "l2"]),
        ({"reduction": "max"}, ["max", "mean"]),
    ],
)
def test_options_out_of_range_are_refused(pair, options, words):
    with pytest.raises(gta.GtaError) as refusal:
        gta.guide(*pair, **options)
    assert all(word in str(refusal.value) for word in words)


@pytest.mark.parametrize(
    ("more", "word"),
    [({"depth": 2}, "depth"), ({"num_heads": 4}, "heads"), ({"img_size": 48}, "grid")],
)
def test_models_that_do_not_match_are_refused(more, word):
    with pytest.raises(gta.GtaError, match=word):
        gta.guide(tiny_vit(), tiny_vit(**more))


def test_token_grids_that_differ_at_run_time_are_refused(images):
    target = tiny_vit(dynamic_img_size=True)
    source = tiny_vit(dynamic_img_size=True, patch_size=4)
    with pytest.raises(gta.GtaError, match="layer 0"):
        gta.guide(target, source)(images)


def test_a_model_is_not_its_own_source():
    model = tiny_vit()
    with pytest.raises(gta.GtaError, match="same object"):
        gta.guide(model, model)


def test_models_without_cls_token_are_refused():
    headless = tiny_vit(class_token=False, global_pool="avg")
    with pytest.raises(gta.GtaError, match=r"no \[cls\] token"):
        gta.guide(headless, tiny_vit())


def test_models_that_are_no_vit_are_refused_by_name():
    with pytest.raises(gta.GtaError, match="ResNet"):
        gta.guide(timm.create_model("resnet10t", num_classes=2), tiny_vit())


@pytest.mark.parametrize("shape", [(2, 3, 48, 48), (2, 3, 40, 48), (2, 1, 40, 40), (3, 40, 40)])
def test_images_of_a_size_the_model_cannot_take_are_refused(pair, shape):
    guided = gta.guide(*pair)
    for run in (guided, guided.measure, guided.eval()):
        with pytest.raises(gta.GtaError, match="images"):
            run(torch.randn(shape))


def test_images_that_patches_do_not_divide_are_refused():
    guided = gta.guide(tiny_vit(dynamic_img_size=True), tiny_vit(dynamic_img_size=True))
    with pytest.raises(gta.GtaError, match="multiples"):
        guided(torch.randn(1, 3, 40, 41))


@pytest.mark.parametrize("which", [0, 1])
def test_a_reading_that_captured_nothing_is_refused(pair, images, which):
    for block in pair[which].blocks:
        block.attn.fused_attn = False
    with pytest.raises(gta.GtaError, match="read 0 attention rows"):
        gta.guide(*pair)(images)


def test_rows_of_the_wrong_layers_are_refused(pair, images):
    target, source = pair
    target.blocks[0].attn.fused_attn = False
    guided = gta.guide(target, source, layers=[0, 1])
    for run in (guided, guided.measure):
        with pytest.raises(gta.GtaError, match="2 calls"):
            run(images)


def test_the_source_follows_a_model_that_was_moved_alone(pair, images):
    target, source = pair
    guided = gta.guide(target, source)
    target.double()
    assert guided(images.double())[1] > 0
    assert source.cls_token.dtype == torch.float64


def test_a_reading_without_gradient_is_refused(pair, images):
    """Reentrant checkpointing runs the blocks without autograd and hands out rows that lead nowhere."""
    from torch.utils.checkpoint import checkpoint

    target, source = pair
    guided = gta.guide(target, source)
    for block in target.blocks:
        inner = block.forward
        block.forward = lambda x, inner=inner, **_: checkpoint(inner, x, use_reentrant=True)
    with pytest.raises(gta.GtaError, match="use_reentrant=False"):
        guided(images)
    for block in target.blocks:
        del block.forward
        inner = block.forward
        block.forward = lambda x, inner=inner, **_: checkpoint(inner, x, use_reentrant=False)
    _, penalty = guided(images)
    penalty.backward()
    assert target.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_a_frozen_target_may_have_rows_without_gradient(pair, images):
    target, source = pair
    for name, parameter in target.named_parameters():
        parameter.requires_grad = name.startswith("head")
    logits, penalty = gta.guide(target, source)(images)
    assert logits.requires_grad
    assert not penalty.requires_grad


def test_no_gradient_is_asked_for_without_autograd(pair, images):
    with torch.no_grad():
        _, penalty = gta.guide(*pair)(images)
    assert penalty > 0


@pytest.mark.parametrize("mask", [{"attn_mask": torch.ones(5, 5, dtype=torch.bool)}, {"is_causal": True}])
def test_masked_attention_is_refused(mask):
    q = torch.randn(1, 2, 5, 4)
    with pytest.raises(gta.GtaError, match="mask or bias"), AttentionLogits(vit_info(tiny_vit()), [0]):
        F.scaled_dot_product_attention(q, q, q, **mask)


def test_a_position_bias_is_part_of_the_row():
    q, bias = torch.randn(3, 2, 5, 4), torch.randn(1, 2, 5, 5)
    tap = AttentionLogits(vit_info(tiny_vit()), [0])
    with tap:
        F.scaled_dot_product_attention(q, q, q, attn_mask=bias)
    torch.testing.assert_close(tap._read[0].float(), (q @ q.mT / 2 + bias)[:, :, 0, 1:])


def test_attention_pooling_is_no_layer():
    q = torch.randn(1, 2, 5, 4)
    tap = AttentionLogits(vit_info(tiny_vit()), [0])
    with tap:
        F.scaled_dot_product_attention(q[:, :, :1], q, q)
        F.scaled_dot_product_attention(q, q, q)
    assert [tuple(r.shape) for r in [row.float() for row in tap._read]] == [(1, 2, 4)]


def test_a_custom_distance(pair, images):
    def largest(target, source, reduction):
        return (target - source).abs().amax(-1)

    _, penalty = gta.guide(*pair, weight=2.0, distance=largest)(images)
    t, s = (torch.stack(reference_rows(m, images)) for m in pair)
    torch.testing.assert_close(penalty.double(), 2 * (t - s).abs().amax(-1).mean(), rtol=1e-5, atol=0)


def test_deepcopy_guides_its_own_copy(pair, images):
    guided = gta.guide(*pair)
    twin = copy.deepcopy(guided)
    assert twin.model is not guided.model
    torch.testing.assert_close(twin(images)[1], guided(images)[1])
