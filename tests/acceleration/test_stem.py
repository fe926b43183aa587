"""The patch embedding that target and source share is computed once, and only where it is the same."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import gta
from gta.acceleration.stem import SharedStem
from gta.methods.attention_only import AttentionOnly
from gta.methods.compose import Recipe
from gta.methods.gta import GTA
from tests.conftest import spread, tiny_vit


class Convolutions(TorchFunctionMode):
    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is F.conv2d
        return func(*args, **(kwargs or {}))


@pytest.fixture
def images():
    torch.manual_seed(5)
    return torch.randn(4, 3, 40, 40)


def pair(**options):
    """A target that differs from its source everywhere but in its frozen patch embedding."""
    source = tiny_vit()
    target = spread(copy.deepcopy(source), 0.02)
    target.patch_embed.load_state_dict(source.patch_embed.state_dict())
    target.patch_embed.requires_grad_(False)
    return gta.guide(target, source, **options)


def step(guided, images, enabled=False):
    with Convolutions() as made, torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        logits, penalty = guided(images)
        (logits.float().sum() + penalty).backward()
    gradients = [p.grad for p in guided.model.parameters()]
    guided.model.zero_grad()
    return made.count, [logits, penalty, *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("low", [False, True])
def test_a_shared_embedding_is_computed_once_and_changes_nothing(images, monkeypatch, low):
    guided = pair()
    step(guided, images + 1, enabled=low)  # in the first step a source in bf16 is studied too
    count, shared = step(guided, images, enabled=low)
    assert count == 1
    monkeypatch.setattr(SharedStem, "of_target", staticmethod(F.conv2d))
    count, apart = step(guided, images, enabled=low)
    assert count == 2
    assert all(map(torch.equal, shared, apart))


def train(guided):
    guided.model.patch_embed.requires_grad_(True)


def change(guided):
    with torch.no_grad():
        guided.model.patch_embed.proj.bias[0] += 1e-6


def change_the_source(guided):
    with torch.no_grad():
        guided.source.patch_embed.proj.weight[0] += 1e-6


def shift(guided):
    guided.model.patch_embed.proj.padding = (1, 1)
    guided.model.patch_embed.proj.forward = lambda x: guided.model.patch_embed.proj._conv_forward(
        x, guided.model.patch_embed.proj.weight, guided.model.patch_embed.proj.bias
    )[..., :5, :5]


def copy_images(guided):
    guided.model.register_forward_pre_hook(lambda model, images: images[0].clone())


def change_images(guided):
    guided.model.register_forward_pre_hook(lambda model, images: images[0].add_(1))


@pytest.mark.parametrize("meddle", [train, change, change_the_source, shift, copy_images, change_images])
def test_what_is_not_the_same_is_computed_twice(images, meddle):
    guided = pair()
    assert step(guided, images)[0] == 1
    meddle(guided)
    wanted = copy.deepcopy(guided.model)(images.clone())
    count, (logits, *_) = step(guided, images)
    assert count == 2
    torch.testing.assert_close(logits, wanted)


def test_nothing_outlives_the_step(images):
    guided, batch = pair(), images + 1
    alive = weakref.ref(batch)
    step(guided, batch)
    del batch
    assert alive() is None


def test_images_with_a_gradient_get_it(images):
    guided = pair()
    guided(images.requires_grad_())[0].sum().backward()
    assert images.grad is not None


def test_another_precision_is_not_shared(images):
    guided = pair()
    with torch.autocast("cpu", torch.bfloat16):
        guided.source_rows(images)
    with Convolutions() as made:
        assert guided.model(images).dtype == torch.float32
        with guided.tap():
            guided.model(images)
    assert made.count == 2


def test_a_compiled_source_shares_nothing(images, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    guided = pair(source_compile=True)
    assert step(guided, images)[0] == 2  # what is traced is not what is computed
    assert step(guided, images)[0] == 1  # the target's; the graph calls no function that a mode sees


@pytest.mark.parametrize(("parts", "count"), [([GTA()], 2), ([AttentionOnly(), GTA()], 1)])
def test_a_method_that_freezes_the_embedding_shares_it(images, parts, count):
    source = tiny_vit()
    recipe = Recipe(copy.deepcopy(source).train(), source, parts)
    recipe.begin_step(0, 1)
    with Convolutions() as made:
        recipe(images, torch.tensor([0, 1, 2, 0]))
    assert made.count == count
