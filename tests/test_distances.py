"""Every distance: solved by hand, against scipy or a plain formula, and its gradient against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine, jensenshannon
from scipy.special import rel_entr, softmax

from gta import GtaError
from gta.distances import DISTANCES, distance_at, takes_temperature
from gta.training.options import TrainOptions

B, H, N = 2, 3, 5
EVEN = torch.zeros(2)  # softmax 1/2, 1/2
THREE_TO_ONE = torch.tensor([math.log(3), 0.0])  # softmax 3/4, 1/4


@pytest.fixture
def rows():
    torch.manual_seed(0)
    return torch.randn(B, H, N, dtype=torch.float64), torch.randn(B, H, N, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "target", "source", "expected"),
    [
        ("l2", [3.0, 1.0], [1.0, 1.0], 4 / 2),
        ("l2_normalised", [3.0, 1.0], [1.0, 1.0], 1.0),  # centred, the difference is 1 and -1
        ("smooth_l1", [3.5, 1.0], [1.0, 0.5], (2.0 + 0.125) / 2),
        ("cosine", [5.0, 3.0], [2.0, 4.0], 2.0),  # centred, (1, -1) and (-1, 1)
        ("kl", EVEN, THREE_TO_ONE, 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
        ("reverse_kl", EVEN, THREE_TO_ONE, 0.5 * math.log(2 / 3) + 0.5 * math.log(2)),
        (
            "js", EVEN, THREE_TO_ONE,
            (0.5 * math.log(0.8) + 0.5 * math.log(4 / 3) + 0.75 * math.log(1.2) + 0.25 * math.log(2 / 3)) / 2,
        ),
    ],
)  # fmt: skip
def test_solved_by_hand(name, target, source, expected):
    one = torch.as_tensor(target)[None, None]
    assert DISTANCES[name](one, torch.as_tensor(source)[None, None], "mean").item() == pytest.approx(expected)


REFERENCES = {
    "l2": lambda t, s: np.mean((t - s) ** 2),
    "l2_normalised": lambda t, s: np.var(t - s),
    "smooth_l1": lambda t, s: np.mean([d * d / 2 if abs(d) < 1 else abs(d) - 0.5 for d in t - s]),
    "cosine": lambda t, s: cosine(t - t.mean(), s - s.mean()),
    "kl": lambda t, s: rel_entr(softmax(s), softmax(t)).sum(),
    "reverse_kl": lambda t, s: rel_entr(softmax(t), softmax(s)).sum(),
    "js": lambda t, s: jensenshannon(softmax(t), softmax(s)) ** 2,
}


@pytest.mark.parametrize("name", DISTANCES)
def test_against_an_independent_implementation(name, rows):
    target, source = rows
    found = DISTANCES[name](target, source, "mean")
    pair = target.numpy(), source.numpy()
    expected = [[REFERENCES[name](t, s) for t, s in zip(a, b, strict=True)] for a, b in zip(*pair, strict=True)]
    torch.testing.assert_close(found, torch.tensor(np.array(expected)))


@pytest.mark.parametrize("name", [name for name in DISTANCES if takes_temperature(name)])
def test_a_temperature_divides_the_rows_and_keeps_the_gradients_size(name, rows):
    target, source = rows
    found = distance_at(name, 3.0)(target, source, "mean")
    torch.testing.assert_close(found, 9 * DISTANCES[name](target / 3, source / 3, "mean"))
    hot = distance_at(name, 1e3)(target, source, "mean")  # towards half the squared difference of centred rows
    half = 0.5 * DISTANCES["l2_normalised"](target, source, "mean")
    torch.testing.assert_close(hot, half / (4 if name == "js" else 1), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", DISTANCES)
def test_zero_for_equal_rows_and_the_right_gradient(name, rows):
    target, source = rows
    assert DISTANCES[name](source, source, "mean").abs().max() < 1e-12
    target.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda t: DISTANCES[name](t, source, "mean"), (target,))


@pytest.mark.parametrize("name", ["l2_normalised", "cosine", "kl", "reverse_kl", "js"])
def test_blind_to_a_shift_as_softmax_is(name, rows):
    target, source = rows
    distance = DISTANCES[name]
    torch.testing.assert_close(distance(target + 7, source, "mean"), distance(target, source, "mean"))
    assert not torch.allclose(DISTANCES["l2"](target + 7, source, "mean"), DISTANCES["l2"](target, source, "mean"))


def test_sum_is_mean_times_tokens(rows):
    for name in ("l2", "l2_normalised", "smooth_l1"):
        torch.testing.assert_close(DISTANCES[name](*rows, "sum"), N * DISTANCES[name](*rows, "mean"))


@pytest.mark.parametrize(("name", "temperature", "word"), [("l3", 1, "l3"), ("l2", 2, "softmax"), ("kl", 0, "above 0")])
def test_what_cannot_be_used_is_refused(name, temperature, word):
    with pytest.raises(GtaError, match=word):
        distance_at(name, temperature)


def test_options_refuse_a_distance_by_name():
    with pytest.raises(GtaError, match="'l3' is not known: use one of l2, kl"):
        TrainOptions(data="x", out="y", method="gta", distance="l3")
