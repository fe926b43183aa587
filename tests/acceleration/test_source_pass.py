"""The source in lower precision: the same rows under autocast, within 1 % of the penalty in float32, or not."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

import gta
from gta import devices
from gta.methods.compose import ComposedMethod
from gta.methods.gta import GTA
from gta.vit.capture import run_and_capture
from tests.conftest import spread, tiny_vit

LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def images():
    torch.manual_seed(5)
    return torch.randn(4, 3, 40, 40)


@pytest.fixture
def computes_in(monkeypatch):
    """A pair of models on a device with bf16, and a function: the dtypes that the source's MLPs and attention gave."""
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device: True)
    source = tiny_vit(num_classes=0)
    guided = gta.guide(spread(copy.deepcopy(source), 0.02), source, source_precision="auto")
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
    guided.guidance.source_pass.feed_forward = None
    exact = float(guided(images)[1])
    fresh = gta.guide(guided.model, guided.source, source_precision="auto")
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
    assert guided.guidance.source_pass.lowered
    guided.model.load_state_dict(guided.source.state_dict())
    guided.guidance.source_pass.step = 32
    dtypes(images)
    assert not guided.guidance.source_pass.lowered


def test_same_never_lowers_and_other_words_are_refused(computes_in, images):
    guided, _ = computes_in
    same = gta.guide(guided.model, guided.source, source_precision="same")
    penalties = [float(same(images)[1].detach()) for _ in range(9)]
    assert penalties == penalties[:1] * 9
    with pytest.raises(gta.GtaError, match="source_precision must be"):
        gta.guide(guided.model, guided.source, source_precision="low")


def test_without_instructions_for_bf16_nothing_is_lowered(computes_in, images, monkeypatch):
    _, dtypes = computes_in
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device: False)
    assert {frozenset(dtypes(images)) for _ in range(9)} == {frozenset({HIGH, QKV})}


def test_under_autocast_cast_weights_change_no_bit(images):
    source = tiny_vit(num_classes=0)
    guided = gta.guide(spread(copy.deepcopy(source), 0.02), source, source_precision="auto")
    with torch.autocast("cpu", torch.bfloat16):
        ours = guided.capture_source(images)
        (plain,) = run_and_capture(guided.source, images, [guided.guidance.capture(guided.guidance.source)])
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(ours, plain, strict=True))


def test_weights_that_change_are_cast_again(images):
    source = tiny_vit(num_classes=0)
    guided = gta.guide(copy.deepcopy(source), source, source_precision="auto")
    with torch.autocast("cpu", torch.bfloat16):
        before = guided.capture_source(images)[-1].float()
        spread(source, 0.05)
        after = guided.capture_source(images)[-1].float()
        assert not torch.equal(before, after)
        fresh = gta.guide(copy.deepcopy(source), source, source_precision="auto")
        assert torch.equal(after, fresh.capture_source(images)[-1].float())


def test_a_copy_lowers_its_own_source_and_a_detached_guide_holds_none(computes_in, images):
    guided, _ = computes_in
    for _ in range(5):
        guided(images)
    copied = copy.deepcopy(guided)
    spread(copied.source, 0.02)
    rows = [g.capture_source(images)[-1].float() for g in (guided, copied)]
    assert not torch.equal(*rows)
    alive = weakref.ref(guided.source.blocks[0].mlp.fc1)
    guided.detach()
    gc.collect()
    assert alive() is None


def test_a_resumed_training_goes_on_in_the_precision_it_had(images, monkeypatch):
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device: True)

    def composed() -> ComposedMethod:
        source = tiny_vit(num_classes=0)
        torch.manual_seed(3)
        return ComposedMethod(
            spread(gta.new_target(_with_info(source), 3), 0.02), source, [GTA(source_precision="auto")]
        )

    whole, resumed = composed(), composed()
    whole.begin_step(4, 100)
    whole(images, LABELS)
    assert whole.methods[0].guidance.source_pass.lowered
    resumed.load_state_dict(whole.state_dict())
    penalties = []
    for one in (whole, resumed):
        one.begin_step(5, 100)
        penalties.append(float(one(images, LABELS).penalty))
    assert penalties[0] == penalties[1]
    assert resumed.methods[0].guidance.source_pass.lowered


def _with_info(source):
    from gta.sources.info import SourceInfo
    from tests.conftest import TINY

    source.info = SourceInfo("x", "vit_tiny_patch16_224", {"img_size": 40, **TINY})
    return source
