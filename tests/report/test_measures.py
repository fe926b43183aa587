"""The report's numbers, against cases solved by hand and against other libraries."""

import numpy as np
import pytest
import torch

from gta.report.measures import (
    Probe,
    calibration_error,
    mcnemar,
    reliability,
    tempered,
    unit,
    wilson,
)  # fmt: skip
from gta.report.runs import holm


def test_wilson_by_hand():
    a, z = wilson(7, 10), 1.959964
    centre = (0.7 + z**2 / 20) / (1 + z**2 / 10)
    half = z / (1 + z**2 / 10) * (0.7 * 0.3 / 10 + z**2 / 400) ** 0.5
    assert a == pytest.approx((70, 100 * (centre - half), 100 * (centre + half)), abs=1e-4)
    assert wilson(0, 10).low == pytest.approx(0, abs=1e-9)
    assert wilson(10, 10).high == pytest.approx(100)


def test_mcnemar_by_hand():
    one = np.array([1, 1, 1, 1, 1, 0, 1], bool)
    other = np.array([0, 0, 0, 0, 0, 1, 1], bool)
    assert mcnemar(one, other) == pytest.approx(2 * (1 + 6) / 2**6)  # 5 against 1 of 6
    assert mcnemar(one, one) == 1


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_calibration_by_hand():
    confidence, right = np.array([0.95, 0.95, 0.95, 0.95, 0.5]), np.array([1, 1, 1, 0, 1], bool)
    assert calibration_error(confidence, right) == pytest.approx(0.8 * 0.2 + 0.2 * 0.5)
    assert [b.share for b in reliability(confidence, right)] == pytest.approx([0.2, 0.8])
    assert calibration_error(np.array([1.0]), np.array([True])) == 0


def test_a_temperature_divides_the_logits():
    logits = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 9
    np.testing.assert_allclose(tempered(logits.softmax(-1).numpy(), 3), (logits / 3).softmax(-1), rtol=1e-9)


def test_calibration_is_what_training_writes_into_results():
    from gta.training import calibration

    logits = torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    labels = torch.arange(200) % 4
    confidence, guesses = logits.softmax(-1).max(-1)
    ours = calibration_error(confidence.numpy(), (guesses == labels).numpy())
    assert 100 * ours == pytest.approx(calibration.calibration_error(logits, labels))


def test_the_probe_is_the_minimum_that_torch_finds_too():
    torch.manual_seed(0)
    x, y = torch.randn(60, 7, dtype=torch.float64), torch.arange(60) % 3
    x[:, 0] += 2 * y
    penalty = 1e-2
    ours = Probe(x.numpy(), y.numpy(), 3, penalty)(x.numpy())
    scaled = (x - x.mean(0)) / (x.std(0, correction=0) + 1e-6) / 7**0.5
    weights, bias = (torch.zeros(s, dtype=torch.float64, requires_grad=True) for s in ((7, 3), (3,)))
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        found = torch.nn.functional.cross_entropy(scaled @ weights + bias, y) + penalty * weights.square().sum() / 2
        found.backward()
        return found

    optimiser.step(loss)
    np.testing.assert_allclose(ours, (scaled @ weights + bias).softmax(-1).detach(), atol=2e-3)
    assert (ours.argmax(1) == y.numpy()).mean() > 0.7
    np.testing.assert_allclose(np.linalg.norm(unit(x.numpy()), axis=1), 1, rtol=1e-5)
