"""What a picture is about, from attention: ranks and boxes solved by hand."""

import pytest
import torch

import gta
from gta.vit.foreground import attended_box, compact_mean, largest_part, ranked, saliency
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


def attention(model, images):
    """Of the last three layers (B, L, H, 5, 5): the softmax of the whole product, as the textbook writes it."""
    maps: list[torch.Tensor] = []

    def hook(attn, inputs, _):
        b, n, _ = inputs[0].shape
        q, k, _ = attn.qkv(inputs[0]).reshape(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        maps.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)[:, :, 0, 1:].unflatten(-1, (5, 5)))

    for block in model.blocks:
        block.attn.register_forward_hook(hook)
    model(images)
    return torch.stack(maps[-3:], 1)


def test_saliency_is_the_mean_attention_of_the_last_layers_by_how_compact_their_heads_are():
    model, images = tiny_vit().eval(), torch.randn(2, 3, 40, 40)
    expected = torch.zeros(2, 5, 5)
    for image, of_layers in enumerate(attention(model, images)):
        for head in of_layers.flatten(0, 1):
            share = (head / head.sum()).double()
            points = [((y / 4, x / 4), share[y, x].item()) for y in range(5) for x in range(5)]
            centre = [sum(p * at[axis] for at, p in points) for axis in (0, 1)]
            spread = sum(p * ((at[0] - centre[0]) ** 2 + (at[1] - centre[1]) ** 2) for at, p in points)
            expected[image] += head / (spread + 0.05) ** 2
    expected /= expected.sum((1, 2), keepdim=True)
    torch.testing.assert_close(saliency(model, images, smooth=0), expected)
    smooth = saliency(model, images, smooth=1.5)
    torch.testing.assert_close(smooth.sum((1, 2)), torch.ones(2))
    assert smooth.flatten(1).std(1).lt(expected.flatten(1).std(1)).all()


def test_a_head_that_looks_at_one_place_counts_more_than_one_that_looks_everywhere():
    maps = torch.full((1, 1, 2, 8, 8), 1 / 64)
    maps[0, 0, 1] = 0
    maps[0, 0, 1, 2:4, 5:7] = 1 / 4
    mean = compact_mean(maps)[0]
    assert mean[2:4, 5:7].sum() > 0.85 * mean.sum()


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
