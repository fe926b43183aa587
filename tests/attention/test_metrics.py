"""Attention measures, by hand and against DINO's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gta.attention.maps import logits_and_rows, patch_grid
from gta.attention.metrics import jaccard, mean_map, object_mass, patch_attention
from tests.conftest import reference_rows, tiny_vit


def test_softmax_over_all_tokens_then_prefix_dropped():
    rows = torch.tensor([[[0.0, 0.0, 0.0, 0.0]]])
    attention = patch_attention(rows, 1)
    assert attention.tolist() == [[[0.25, 0.25, 0.25]]]
    assert mean_map(attention)[0].tolist() == pytest.approx([1 / 3] * 3)


def test_object_mass_by_hand():
    # two heads over a 1×2 grid; the first gives half of its attention to the prefix, so it weighs less in the mean
    attention = torch.tensor([[[0.4, 0.1], [0.2, 0.8]]])
    mask = torch.zeros(1, 4, 8)
    mask[:, :, :4] = 1  # all of the left patch
    assert object_mass(attention, mask, (1, 2)).item() == pytest.approx(0.6 / 1.5)
    mask[:, :2, 4:] = 1  # and half of the right one
    assert object_mass(attention, mask, (1, 2)).item() == pytest.approx((0.6 + 0.9 * 0.5) / 1.5)


def test_object_mass_of_uniform_attention_is_the_masks_area():
    mask = (torch.rand(3, 35, 35) > 0.7).float()
    mass = object_mass(torch.full((3, 2, 25), 1 / 26), mask, (5, 5))
    torch.testing.assert_close(mass, mask.mean((1, 2)))


def test_jaccard_by_hand():
    # 2×2 patches; the top 60 % of head 0 are patches 0 and 1 (0.5 + 0.3 reach it, 0.5 does not), of head 1 patch 3
    attention = torch.tensor([[[0.5, 0.3, 0.15, 0.05], [0.1, 0.1, 0.1, 0.7]]])
    top = torch.zeros(1, 4, 4)
    top[:, :2] = 1
    assert jaccard(attention, top, (2, 2)).item() == 1.0
    corner = torch.zeros(1, 4, 4)
    corner[:, 2:, 2:] = 1
    assert jaccard(attention, corner, (2, 2)).item() == 1.0  # the other head is best here
    left = torch.zeros(1, 4, 4)
    left[:, :, :2] = 1
    assert jaccard(attention, left, (2, 2)).item() == pytest.approx(4 / 12)
    assert jaccard(attention, torch.zeros(1, 4, 4), (2, 2)).item() == 0.0


def dino_overlap(head: np.ndarray, truth: np.ndarray, mass: float = 0.6) -> float:
    """The arithmetic of DINO's visualize_attention.py, written out in numpy for 3×4 patches of 4×4 px."""
    order = np.argsort(head)
    top = np.empty(12, dtype=bool)
    top[order] = np.cumsum(head[order] / head.sum()) > 1 - mass
    pixels = np.kron(top.reshape(3, 4), np.ones((4, 4))).astype(bool)
    return (pixels & truth).sum() / (pixels | truth).sum()


def test_jaccard_equals_dinos_loop():
    rng = np.random.default_rng(0)
    attention, mask = rng.random((3, 5, 12)) ** 4, rng.random((3, 12, 16)) > 0.6
    expected = [max(dino_overlap(head, truth) for head in image) for image, truth in zip(attention, mask, strict=True)]
    ours = jaccard(torch.tensor(attention), torch.tensor(mask).float(), (3, 4))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6)


def test_rows_with_and_without_prefix_agree():
    model = tiny_vit(reg_tokens=4).train()
    images = torch.randn(2, 3, 40, 40)
    logits, rows = logits_and_rows(model, images)
    assert model.training
    model.eval()
    torch.testing.assert_close(logits, model(images).detach())
    for ours, theirs in zip(rows, reference_rows(model, images), strict=True):
        assert ours.shape == (2, 2, 30)
        torch.testing.assert_close(ours[..., 5:].double(), theirs.detach(), rtol=1e-5, atol=1e-6)


def test_grid_of_dynamic_models():
    assert patch_grid(tiny_vit(), torch.zeros(1, 3, 40, 40)) == (5, 5)
    assert patch_grid(tiny_vit(dynamic_img_size=True), torch.zeros(1, 3, 24, 56)) == (3, 7)
