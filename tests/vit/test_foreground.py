"""What a picture is about, from attention: ranks and boxes solved by hand."""

import pytest
import torch

import gta
from gta.vit.foreground import attended_box, largest_part, ranked, saliency
from tests.conftest import tiny_vit

SHARES = torch.tensor([[0.4, 0.05, 0.05], [0.3, 0.1, 0.1]])


def test_ranks_by_hand():
    """Each patch: the attention on it and on all that have more."""
    ranks = ranked(SHARES)
    assert ranks[0, 0].item() == pytest.approx(0.4)
    assert ranks[1, 0].item() == pytest.approx(0.7)
    assert sorted(ranks[1, 1:].tolist()) == pytest.approx([0.8, 0.9])
    both = torch.stack([SHARES, SHARES[:, [0, 2, 1]]])  # of equals the first comes first
    assert torch.equal(ranked(both), torch.stack([ranks, ranks]))


def test_saliency_is_the_mean_attention_of_the_last_layers():
    model, images = tiny_vit().eval(), torch.randn(2, 3, 40, 40)
    maps: list[torch.Tensor] = []

    def hook(attn, inputs, _):  # the softmax of the whole product, as the textbook writes it
        b, n, _ = inputs[0].shape
        q, k, _ = attn.qkv(inputs[0]).reshape(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        maps.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)[:, :, 0, 1:].mean(1))

    for block in model.blocks:
        block.attn.register_forward_hook(hook)
    model(images)
    expected = torch.stack(maps[-3:]).mean(0).view(2, 5, 5)
    torch.testing.assert_close(saliency(model, images, smooth=0), expected / expected.sum((1, 2), keepdim=True))
    smooth = saliency(model, images, smooth=1.5)
    torch.testing.assert_close(smooth.sum((1, 2)), torch.ones(2))
    assert smooth.flatten(1).std(1).lt(expected.flatten(1).std(1)).all()


def test_a_model_without_cls_says_nothing_of_pictures():
    with pytest.raises(gta.GtaError, match=r"no \[cls\] token"):
        saliency(tiny_vit(class_token=False, global_pool="avg"), torch.zeros(1, 3, 40, 40))


def test_the_box_by_hand():
    """Half of the attention is on patches (1, 1) and (1, 2) of 4 × 4: a box 2 patches wide, squared, 1.2 times."""
    shares = torch.full((4, 4), 0.5 / 14)
    shares[1, 1], shares[1, 2] = 0.26, 0.24
    box = attended_box(ranked(shares), mass=0.501)
    assert box == pytest.approx((0.5 - 0.3, 0.375 - 0.3, 0.5 + 0.3, 0.375 + 0.3))
    assert attended_box(ranked(shares), mass=0.501, margin=1, least=0.8) == pytest.approx((0.1, 0.0, 0.9, 0.8))
    wide = attended_box(ranked(shares), mass=0.501, margin=1, least=0.1, aspect=2)  # squares of px are narrow in shares
    assert wide == pytest.approx((0.25, 0.0, 0.75, 1.0))


def test_diffuse_attention_shows_the_whole_picture():
    assert attended_box(ranked(torch.full((5, 7), 1 / 35)), mass=1.0) == (0, 0, 1, 1)


def test_the_largest_part_is_connected_by_edges():
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    assert largest_part(mask).nonzero().tolist() == [[3, 0], [3, 1], [3, 2]]
