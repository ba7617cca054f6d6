import math

import numpy as np
import pytest

from distill.students.calibration import fit_temperature, log_loss, softmax


def test_softmax_divides_by_the_temperature() -> None:
    # exp(ln 4 / 2) = 2, exp(0) = 1: shares 2/3 and 1/3.
    found = softmax(np.array([[math.log(4.0), 0.0]]), temperature=2.0)
    assert found[0] == pytest.approx([2 / 3, 1 / 3])


def test_softmax_survives_large_scores() -> None:
    assert softmax(np.array([[1e4, 0.0]]))[0] == pytest.approx([1.0, 0.0])


def test_log_loss_is_the_plain_formula() -> None:
    # Row 1: -log(2/3); row 2: -log(1/3), of weight 3: (log 1.5 + 3 log 3) / 4.
    logits = np.array([[math.log(4.0), 0.0]] * 2)
    target = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = log_loss(logits, target, temperature=2.0, weight=np.array([1.0, 3.0]))
    assert found == pytest.approx((math.log(1.5) + 3 * math.log(3.0)) / 4)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_fit_temperature_undoes_a_known_scale(factor: float) -> None:
    # Targets are the true distribution softmax(z); the student states softmax(factor * z): T = factor is exact.
    logits = np.random.default_rng(0).normal(size=(200, 4))
    assert fit_temperature(logits * factor, softmax(logits)) == pytest.approx(factor, rel=1e-2)


def test_two_scores_have_a_closed_form() -> None:
    # Scores (1, 0) with three of four rows labeled 0: softmax must be 3/4, so 1/T = ln 3.
    logits = np.array([[1.0, 0.0]] * 4)
    target = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    assert fit_temperature(logits, target) == pytest.approx(1 / math.log(3.0), rel=1e-3)


def test_weights_count_as_rows() -> None:
    logits = np.array([[1.0, 0.0]] * 2)
    found = fit_temperature(logits, np.array([[1.0, 0.0], [0.0, 1.0]]), weight=np.array([3.0, 1.0]))
    assert found == pytest.approx(1 / math.log(3.0), rel=1e-3)


def test_bounds_hold_where_no_temperature_is_best() -> None:
    logits = np.array([[5.0, 0.0]] * 4)
    always_right = np.array([[1.0, 0.0]] * 4)
    assert 0.05 <= fit_temperature(logits, always_right) < 0.2  # exp(-5 / 0.2) is nothing to a float
    assert 19 < fit_temperature(logits, 1.0 - always_right) <= 20.0
    assert fit_temperature(np.zeros((0, 2)), np.zeros((0, 2))) == 1.0
