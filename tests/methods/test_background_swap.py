"""Swapped backgrounds, solved by hand on pictures whose every patch has its own colour."""

import pytest
import torch

import gta
from gta.methods.background_swap import BackgroundSwap, background
from tests.conftest import tiny_vit

PATCH, SIDE = 8, 5  # of the tiny ViT at 40 px


def coloured(first: int) -> torch.Tensor:
    """(3, 40, 40): patch k is first + k throughout."""
    patches = first + torch.arange(SIDE * SIDE, dtype=torch.uint8).view(SIDE, SIDE)
    return patches.repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1).expand(3, -1, -1).contiguous()


def ranks(kept: list[int]) -> torch.Tensor:
    """(40, 40): low on the patches kept, then rising."""
    rank = torch.linspace(0.7, 1.0, SIDE * SIDE)
    rank[kept] = 0.1
    return rank.view(SIDE, SIDE).repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1)


def swap(**options: object) -> BackgroundSwap:
    method = BackgroundSwap(**options)
    model = tiny_vit()
    method.attach(model, model)
    return method


def edited(method: BackgroundSwap, kept: list[int] = [12]) -> torch.Tensor:  # noqa: B006 (not changed)
    torch.manual_seed(0)
    return method.edit(coloured(0), ranks(kept), lambda: (coloured(100), ranks([0, 1, 2])))


def test_the_foreground_stays_and_the_rest_is_another_pictures_background():
    image = edited(swap(share=1.0))[0, ::PATCH, ::PATCH]
    assert image.flatten()[12] == 12
    others = torch.cat([image.flatten()[:12], image.flatten()[13:]])
    assert others.min() >= 100
    assert not set(others.tolist()) & {100, 101, 102}  # its own foreground is not shown


def test_patches_around_are_kept_as_well():
    image = edited(swap(share=1.0, dilate=1))[0, ::PATCH, ::PATCH]
    assert image.lt(100).nonzero().tolist() == [[i, j] for i in (1, 2, 3) for j in (1, 2, 3)]


@pytest.mark.parametrize(("fill", "seen"), [("whole", 100), ("blur", None)])
def test_other_fills(fill, seen):
    image = edited(swap(share=1.0, fill=fill))[0, ::PATCH, ::PATCH]
    assert image.flatten()[12] == 12
    assert image[0, 0] == seen if seen else 100 <= image[0, 0] <= 124
    assert fill != "blur" or not torch.equal(image[0] - 100, torch.arange(5, dtype=torch.uint8))


def test_a_share_of_views_is_changed():
    method = swap(share=0.25)
    torch.manual_seed(0)
    changed = [
        not torch.equal(method.edit(coloured(0), ranks([12]), lambda: (coloured(100), ranks([0]))), coloured(0))
        for _ in range(200)
    ]
    assert 0.15 < sum(changed) / 200 < 0.35


def test_a_background_shows_the_less_attended_half_only():
    torch.manual_seed(0)
    filled = background(coloured(0), ranks([0, 1, 2]), PATCH)[0, ::PATCH, ::PATCH].flatten()
    order = ranks([0, 1, 2])[::PATCH, ::PATCH].flatten().argsort()
    shown, less = set(filled.tolist()), set(order[12:].tolist())
    assert shown <= less
    assert filled[order[12:]].tolist() == order[12:].tolist()  # which stays in its place


@pytest.mark.parametrize(
    "options", [{"share": 0}, {"mass": 1.5}, {"dilate": -1}, {"fill": "paint"}, {"foreground": "x"}]
)
def test_what_cannot_be_is_refused(options):
    with pytest.raises(gta.GtaError, match=rf"--background_swap\.{next(iter(options))}"):
        BackgroundSwap(**options)
