"""Attention by the kernel that is quickest: the same numbers, chosen once, and kept for resuming."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as attend

import gta
from gta.acceleration import attention as attention_file
from gta.acceleration.attention import KERNELS, QuickAttention
from gta.methods.compose import ComposedMethod
from gta.methods.gta import GTA
from gta.vit.multiplied import MultipliedAttention
from tests.conftest import spread, tiny_vit

SCALE = 0.3


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def quickest(monkeypatch):
    """Says which kernel is the quickest; counts how often that was measured."""
    measured = []

    def order(*names):
        def timed(*given):
            measured.append(given[0].shape)
            return {name: float(names.index(name)) if name in names else 10.0 for name in KERNELS}

        monkeypatch.setattr(attention_file, "_timed", timed)
        return measured

    return order


def factors(dtype=torch.float64, tokens=11, common=0.0):
    """q, k and v between one another in memory, as one projection leaves them; what all keys have in common."""
    torch.manual_seed(1)
    both = torch.randn(2, tokens, 3, 5, 7, dtype=torch.float64)
    both[:, :, 1] += common
    return [x.detach().requires_grad_() for x in both.to(dtype).permute(2, 0, 3, 1, 4).unbind(0)]


def test_other_programs_do_not_choose(monkeypatch):
    """Of times that are longer in most rounds, the least count."""
    now, rounds = [0.0], []

    def passes(kernel, *given):
        rounds.append(kernel)
        alone = {"fused": 3.0, "float32": 2.0, "multiplied": 1.0}[next(n for n, k in KERNELS.items() if k is kernel)]
        now[0] += alone if len(rounds) in (7, 8, 9) else 10.0  # one quiet round, after the first

    monkeypatch.setattr(attention_file, "_value_and_gradients", passes)
    monkeypatch.setattr(attention_file.time, "perf_counter", lambda: now[0])
    assert attention_file._timed(*factors(), SCALE) == {"fused": 3.0, "float32": 2.0, "multiplied": 1.0}
    assert len(rounds) == 3 * (attention_file.ROUNDS + 1)  # by then enough time was spent


def test_attention_multiplied_out_is_the_textbook_s_with_its_row_and_gradients():
    q, k, v = factors()
    out, row = MultipliedAttention.apply(q, k, v, SCALE, 2)
    assert row.dtype == torch.float32
    logits = SCALE * q @ k.mT
    wanted = logits.softmax(-1) @ v
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(row.double(), logits[:, :, 0, 2:], rtol=1e-6, atol=1e-6)
    of_out, of_row = torch.randn_like(out), torch.randn_like(row)
    ours = torch.autograd.grad((out, row), (q, k, v), (of_out, of_row))
    textbook = torch.autograd.grad((wanted, logits[:, :, 0, 2:]), (q, k, v), (of_out, of_row.double()))
    for one, other in zip(ours, textbook, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_what_all_keys_have_in_common_costs_no_digits_in_bf16():
    exact = [x.detach().requires_grad_() for x in factors(torch.bfloat16, common=30.0)]
    low = [x.detach().requires_grad_() for x in exact]
    q, k, v = (x.double() for x in exact)
    wanted = torch.autograd.grad(attend(q, k, v, scale=SCALE).sum(), exact)
    found = torch.autograd.grad(MultipliedAttention.apply(*low, SCALE, None)[0].sum(), low)
    naive = [x.detach().requires_grad_() for x in exact]
    by_hand = torch.autograd.grad((((naive[0] * SCALE) @ naive[1].mT).softmax(-1) @ naive[2]).sum(), naive)
    for ours, theirs, true in zip(found[1:2], by_hand[1:2], wanted[1:2], strict=True):  # of k
        assert (ours.double() - true).norm() < 0.5 * (theirs.double() - true).norm()


@pytest.mark.parametrize("name", list(KERNELS))
def test_every_kernel_gives_what_attention_gives(quickest, name):
    quickest(name)
    low = factors(torch.bfloat16)
    with QuickAttention() as attention:
        ours = attend(*low)
    assert set(attention.chosen.values()) == {name}
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), attend(*(x.float() for x in low)), rtol=0.02, atol=0.02)


def test_only_what_is_trained_in_bf16_over_few_tokens_is_timed(quickest, monkeypatch):
    measured = quickest("multiplied")
    monkeypatch.setattr(attention_file, "TOKENS", 20)
    with QuickAttention() as attention:
        attend(*factors(torch.float32))
        attend(*factors(torch.bfloat16, tokens=21))
        attend(*factors(torch.bfloat16), is_causal=True)
        with torch.no_grad():
            attend(*factors(torch.bfloat16))
        assert not measured
        attend(*factors(torch.bfloat16))
        attend(*factors(torch.bfloat16))
    assert len(measured) == 1
    assert attention.names() == "multiplied"
    assert QuickAttention().names() == "fused"


def test_times_are_kept_for_the_machine_and_choices_for_resuming(quickest, tmp_path):
    measured = quickest("multiplied")
    for _ in range(2):
        with QuickAttention() as attention:
            attend(*factors(torch.bfloat16))
    assert len(measured) == 1
    file = tmp_path / "cache" / "gta" / "attention.json"
    (shapes,) = json.loads(file.read_text()).values()
    assert shapes == {"bf16 5x11x7": {name: 0.0 if name == "multiplied" else 10.0 for name in KERNELS}}
    file.write_text("{ damaged")
    resumed = QuickAttention()
    resumed.load_state_dict(attention.state_dict())
    with resumed:
        attend(*factors(torch.bfloat16))
    assert len(measured) == 1
    assert resumed.chosen == attention.chosen == {"bf16 5x11x7": "multiplied"}


def test_a_kernel_that_is_hardly_quicker_or_not_exact_is_not_taken(monkeypatch):
    monkeypatch.setattr(attention_file, "_timed", lambda *given: {"fused": 1.0, "float32": 0.95, "multiplied": 0.5})
    monkeypatch.setattr(attention_file, "ERROR", 1e-6)
    with QuickAttention() as attention:
        attend(*factors(torch.bfloat16))
    assert attention.names() == "fused"


@pytest.mark.parametrize("second", [False, True])
def test_rows_and_their_gradients_are_those_of_fused_attention(quickest, second):
    """Alone the capture has its rows of the multiplied logits; beside another one each reads its own."""
    quickest("multiplied")
    source = tiny_vit(num_classes=0)
    source.info = None
    target = spread(tiny_vit(), 0.02).train()
    images, labels = torch.randn(4, 3, 40, 40), torch.tensor([0, 1, 2, 0])
    from gta.methods import METHODS

    found = []
    for attention in (None, QuickAttention()):
        methods = [GTA(weight=3.0), *([METHODS["attention_distill"]()] if second else [])]
        composed = ComposedMethod(target, source, methods, attention=attention)
        composed.begin_step(0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            done = composed(images, labels)
        found.append((done.penalty.detach(), torch.autograd.grad(done.penalty, target.blocks[1].attn.qkv.weight)[0]))
    assert composed.attention.names() == "multiplied"
    (penalty, gradient), (ours, our_gradient) = found
    assert float(ours) == pytest.approx(float(penalty), rel=0.02)
    assert float((our_gradient - gradient).norm() / gradient.norm()) < 0.05


def test_guided_models_of_one_s_own_are_left_as_they_are(quickest):
    measured = quickest("multiplied")
    source = tiny_vit(num_classes=0)
    guided = gta.guide(spread(tiny_vit(), 0.02).train(), source)
    with torch.autocast("cpu", torch.bfloat16):
        guided(torch.randn(2, 3, 40, 40))[1].backward()
    assert not measured
