"""The source in lower precision: the same rows under autocast, within 1 % of the penalty in float32, or not."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gta
import gta.acceleration.source_precision as precision_file
from gta.acceleration.source_precision import LowWeights, ShortAttention, lowered
from gta.guidance import Guided
from gta.methods.compose import Recipe
from gta.methods.gta import GTA
from tests.conftest import spread, tiny_vit

LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def images():
    torch.manual_seed(5)
    return torch.randn(4, 3, 40, 40)


@pytest.fixture
def computes_in(monkeypatch):
    """A pair of models on a device with bf16, and a function: the dtypes that the source's MLPs and attention gave."""
    monkeypatch.setattr(precision_file, "has_fast_bf16", lambda device: True)
    source = tiny_vit(num_classes=0)
    guided = gta.guide(spread(copy.deepcopy(source), 0.02), source)
    seen: list[tuple[str, torch.dtype]] = []
    for name, module in (("mlp", source.blocks[0].mlp.fc2), ("qkv", source.blocks[0].attn.qkv)):
        module.register_forward_hook(lambda _, __, out, name=name: seen.append((name, out.dtype)))

    def dtypes(images: torch.Tensor) -> set[tuple[str, torch.dtype]]:
        seen.clear()
        guided(images)
        return set(seen)

    return guided, dtypes


LOW, HIGH = ("mlp", torch.bfloat16), ("mlp", torch.float32)
QKV = ("qkv", torch.float32)


def test_feed_forward_layers_are_lowered_after_a_check_and_nothing_else(computes_in, images):
    _, dtypes = computes_in
    assert [dtypes(images) for _ in range(4)] == [{HIGH, QKV}] * 4
    assert dtypes(images) == {LOW, HIGH, QKV}  # step 4: both ways
    assert dtypes(images) == {LOW, QKV}


def test_the_penalty_stays_within_a_hundredth_and_is_exact_in_checks(computes_in, images):
    guided, _ = computes_in
    guided.precision.forward = None
    exact = float(guided(images)[1])
    fresh = gta.guide(guided.model, guided.source)
    penalties = [float(fresh(images)[1]) for _ in range(9)]
    assert penalties[:5] == [exact] * 5
    assert penalties[5] != exact
    assert penalties[5] == pytest.approx(exact, rel=0.01)
    assert penalties[8] == exact


def test_where_drift_is_too_small_for_it_the_source_stays_in_float32(computes_in, images):
    guided, dtypes = computes_in
    guided.model.load_state_dict(guided.source.state_dict())  # equal models: any error is more than a hundredth
    for _ in range(5):
        dtypes(images)
    assert dtypes(images) == {HIGH, QKV}
    assert float(guided(images)[1]) == 0.0


def test_it_is_decided_anew_at_every_check(computes_in, images):
    guided, dtypes = computes_in
    for _ in range(6):
        dtypes(images)
    assert guided.precision.lowered
    guided.model.load_state_dict(guided.source.state_dict())
    guided.step = 32
    dtypes(images)
    assert not guided.precision.lowered


def test_same_never_lowers_and_other_words_are_refused(computes_in, images):
    guided, _ = computes_in
    same = gta.guide(guided.model, guided.source, source_precision="same")
    penalties = [float(same(images)[1].detach()) for _ in range(9)]
    assert penalties == penalties[:1] * 9
    with pytest.raises(gta.GtaError, match="source_precision='low'"):
        gta.guide(guided.model, guided.source, source_precision="low")


def test_without_instructions_for_bf16_nothing_is_lowered(computes_in, images, monkeypatch):
    _, dtypes = computes_in
    monkeypatch.setattr(precision_file, "has_fast_bf16", lambda device: False)
    assert {frozenset(dtypes(images)) for _ in range(9)} == {frozenset({HIGH, QKV})}


def test_under_autocast_cast_weights_change_no_bit(images, monkeypatch):
    monkeypatch.setattr(precision_file, "_has_fused", lambda *_: False)
    source = tiny_vit(num_classes=0)
    guided = gta.guide(spread(copy.deepcopy(source), 0.02), source)
    with torch.autocast("cpu", torch.bfloat16):
        ours = guided.source_rows(images)
        plain = guided.read_source(images)
    assert all(torch.equal(a.rows(), b.rows()) for a, b in zip(ours, plain, strict=True))


needs_fused = pytest.mark.skipif(
    not precision_file._has_fused(torch.device("cpu"), torch.bfloat16), reason="this CPU has no fused product in bf16"
)


@needs_fused
@pytest.mark.parametrize("kind", ["none", "tanh"])
def test_products_with_gelu_in_one_are_as_exact_and_the_same_from_the_first_pass_on(images, kind):
    source = tiny_vit(num_classes=0)
    for block in source.blocks:
        block.mlp.act = nn.GELU(kind)
    guided = gta.guide(copy.deepcopy(source), source)
    exact = guided.read_source(images)
    calls: list[str] = []
    source.blocks[0].mlp.act.register_forward_hook(lambda _, given, out: calls.append(f"{given[0] is out}"))
    with torch.autocast("cpu", torch.bfloat16):
        ours, again = guided.source_rows(images), guided.source_rows(images)
        plain = guided.read_source(images)
    assert calls == ["False", "True", "True", "False"]  # of two GELUs that did nothing, the product had done it
    assert all(torch.equal(a.rows(), b.rows()) for a, b in zip(ours, again, strict=True))
    assert error_of(ours, exact) < 1.1 * error_of(plain, exact)


def error_of(rows, exact):
    return float(torch.stack([a.rows() - b.rows() for a, b in zip(rows, exact, strict=True)]).norm())


@needs_fused
@pytest.mark.parametrize("kind", ["none", "tanh"])
def test_the_gelu_in_a_product_is_the_one_the_layer_has(kind):
    layer, act = nn.Linear(16, 16, bias=False), nn.GELU(kind)
    nn.init.eye_(layer.weight)
    x = torch.linspace(-3, -2, 16).bfloat16().float()[None]  # where both kinds are furthest apart
    weights = LowWeights([layer])
    with torch.no_grad():
        ours = lowered(lambda x: [act(layer(x))], x, weights, torch.bfloat16)[0]
    assert weights.activations == [kind]
    assert torch.equal(ours, act(x).bfloat16())


@needs_fused
@pytest.mark.parametrize("way", ["kept", "twice", "between"])
def test_a_layer_whose_output_is_needed_beside_gelu_is_left_alone(way):
    first, act, last = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def run(x):
        y = first(x)
        more = y.sum() if way == "between" else 0.0
        z = act(y)
        more = y.sum() if way == "kept" else more
        del y
        if way == "twice":
            z = z + first(x)
        return [last(z) + more]

    x = torch.randn(4, 8)
    weights = LowWeights([first, last])
    with torch.no_grad():
        ours = lowered(run, x, weights, torch.bfloat16)[0]
    assert weights.activations == [None, None]
    assert torch.allclose(ours.float(), run(x)[0], atol=0.1, rtol=0.05)


@needs_fused
def test_layers_may_share_a_weight_and_be_called_by_keywords():
    layers, x = [nn.Linear(8, 8) for _ in range(3)], torch.randn(4, 8)
    layers[1].weight, layers[1].bias = layers[0].weight, layers[0].bias

    def run(x):
        first, second, third = layers
        return [F.linear(input=F.gelu(second(F.gelu(first(x)))), weight=third.weight, bias=third.bias)]

    weights = LowWeights(layers)
    with torch.no_grad():
        ours = lowered(run, x, weights, torch.bfloat16)[0]
        assert torch.allclose(ours.float(), run(x)[0], atol=0.02)
    assert weights.activations == ["none", "none", None]


@needs_fused
def test_a_layer_that_no_longer_goes_to_gelu_is_no_silent_mistake():
    layer = nn.Linear(8, 8)
    weights = LowWeights([layer])
    with torch.no_grad():
        x = torch.randn(4, 8)
        lowered(lambda x: [F.gelu(layer(x))], x, weights, torch.bfloat16)
        with pytest.raises(AssertionError, match="GELU"):
            lowered(lambda x: [layer(layer(x))], x, weights, torch.bfloat16)


def test_weights_that_change_are_cast_again(images):
    source = tiny_vit(num_classes=0)
    guided = gta.guide(copy.deepcopy(source), source)
    with torch.autocast("cpu", torch.bfloat16):
        before = guided.source_rows(images)[-1].rows()
        spread(source, 0.05)
        after = guided.source_rows(images)[-1].rows()
        assert not torch.equal(before, after)
        fresh = gta.guide(copy.deepcopy(source), source)
        assert torch.equal(after, fresh.source_rows(images)[-1].rows())


def test_a_copy_lowers_its_own_source_and_a_detached_guide_holds_none(computes_in, images):
    guided, _ = computes_in
    for _ in range(5):
        guided(images)
    copied = copy.deepcopy(guided)
    spread(copied.source, 0.02)
    rows = [g.source_rows(images)[-1].rows() for g in (guided, copied)]
    assert not torch.equal(*rows)
    alive = weakref.ref(guided.source.blocks[0].mlp.fc1)
    guided.detach()
    gc.collect()
    assert alive() is None


def test_a_resumed_training_goes_on_in_the_precision_it_had(images, monkeypatch):
    monkeypatch.setattr(precision_file, "has_fast_bf16", lambda device: True)

    def recipe() -> Recipe:
        source = tiny_vit(num_classes=0)
        torch.manual_seed(3)
        return Recipe(spread(gta.new_target(_with_info(source), 3), 0.02), source, [GTA()])

    whole, resumed = recipe(), recipe()
    whole.begin_step(4, 100)
    whole(images, LABELS)
    assert whole.parts[0].guided.precision.lowered
    resumed.load_state_dict(whole.state_dict())
    penalties = []
    for one in (whole, resumed):
        one.begin_step(5, 100)
        penalties.append(float(one(images, LABELS).penalty))
    assert penalties[0] == penalties[1]
    assert resumed.parts[0].guided.precision.lowered


def _with_info(source):
    from gta.sources.info import SourceInfo

    from .conftest import TINY

    source.info = SourceInfo("x", "vit_tiny_patch16_224", {"img_size": 40, **TINY})
    return source


def test_short_attention_in_bf16_is_float32s_rounded():
    q, k, v = (torch.randn(2, 3, 20, 8).bfloat16().requires_grad_() for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    with ShortAttention():
        ours = attend(q, k, v)
        long = attend(*(torch.cat([x] * 7, 2) for x in (q, k, v)))
    wanted = attend(q.float(), k.float(), v.float())
    assert torch.equal(ours, wanted.bfloat16())
    assert torch.equal(long[:, :, :20], attend(*(torch.cat([x] * 7, 2) for x in (q, k, v)))[:, :, :20])
    ours.float().sum().backward()
    gradient = q.grad.clone()
    q.grad = None
    wanted.sum().backward()
    assert torch.equal(gradient, q.grad)


# --- every ----------------------------------------------------------------------------------------------------


def test_every_third_pass_is_guided_three_times_as_strongly(images):
    source = tiny_vit(num_classes=0)
    model = spread(copy.deepcopy(source), 0.02)
    once = float(gta.guide(model, source)(images)[1])
    ran: list[int] = []
    source.patch_embed.register_forward_hook(lambda *_: ran.append(1))
    guided = gta.guide(model, source, every=3)
    penalties = [float(guided(images)[1]) for _ in range(7)]
    assert penalties == pytest.approx([3 * once, 0, 0, 3 * once, 0, 0, 3 * once])
    assert len(ran) == 3
    model.eval()
    guided(images)
    assert guided.step == 7  # evaluation is no step


def test_every_second_training_step_is_guided_twice_as_strongly(images):
    def penalties(every: int) -> list[float]:
        source = _with_info(tiny_vit(num_classes=0))
        torch.manual_seed(3)
        recipe = Recipe(spread(gta.new_target(source, 3), 0.02), source, [GTA(every=every, source_precision="same")])
        found = []
        for step in (0, 1, 2, 7, 8):
            recipe.begin_step(step, 100)
            found.append(float(recipe(images, LABELS).penalty.detach()))
        return found

    once = penalties(1)
    assert penalties(2) == pytest.approx([2 * once[0], 0, 2 * once[2], 0, 2 * once[4]])


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_every_must_be_a_number_of_steps(every):
    source = tiny_vit(num_classes=0)
    with pytest.raises(gta.GtaError, match=f"every={every}"):
        Guided(copy.deepcopy(source), source, 1.0, "all", "l2", "mean", every=every)
