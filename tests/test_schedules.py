"""The weight over training, point by point."""

from __future__ import annotations

import pytest

from gta import GtaError
from gta.schedules import factor
from gta.training.optimiser import rate
from gta.training.options import TrainOptions


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [
        ("constant", None, [1, 1, 1, 1, 1]),
        ("linear", None, [1, 0.75, 0.5, 0.25, 0.1]),
        ("linear", 0.5, [1, 0.5, 0, 0, 0]),
        ("cosine", None, [1, 0.853553, 0.5, 0.146447, 0.024472]),
        ("cosine", 0.5, [1, 0.5, 0, 0, 0]),
        ("warmup", None, [0, 1, 1, 1, 1]),
        ("warmup", 0.5, [0, 0.5, 1, 1, 1]),
        ("release", None, [1, 1, 0, 0, 0]),
        ("release", 0.6, [1, 1, 1, 0, 0]),
    ],
)
def test_schedules(name, length, expected):
    found = [factor(name, progress, length) for progress in (0, 0.25, 0.5, 0.75, 0.9)]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "length"), [("sine", None), ("linear", 0), ("linear", 1.5), ("release", float("nan"))]
)
def test_what_is_no_schedule_is_refused(name, length):
    with pytest.raises(GtaError):
        factor(name, 0.0, length)


def test_options_refuse_a_schedule_by_name():
    with pytest.raises(GtaError, match="'step' is not known: use one of constant"):
        TrainOptions(data="x", out="y", weight_schedule="step")


def test_the_learning_rate_begins_anew_at_an_edge():
    whole = [rate(step, [0, 20]) for step in range(20)]
    assert whole[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert whole[11] == pytest.approx(0.5)
    assert [rate(step, [0, 5, 25]) for step in range(25)][5:] == whole
    assert rate(25, [0, 5, 25]) == pytest.approx(0)  # asked for once more after the last step
