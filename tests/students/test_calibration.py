import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from distill.eval.metrics import binned, expected_calibration_error
from distill.students.calibration import (
    Calibration,
    Curve,
    calibrated,
    calibration_error,
    fit_calibration,
    fit_temperature,
    log_loss,
    softmax,
)


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


def _drawn(probs: np.ndarray, seed: int) -> np.ndarray:
    """One label a row, drawn from its distribution, one-hot."""
    drawn = (np.random.default_rng(seed).random((len(probs), 1)) > probs.cumsum(axis=1)).sum(axis=1)
    return np.eye(probs.shape[1])[drawn]


def _world(seed: int, rows: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(seed).normal(size=(rows, 3)) * 1.5, np.repeat(np.arange(rows // 20), 20)


def test_each_map_is_its_formula() -> None:
    logits = np.array([[1.0, 2.0]])
    # softmax(a z / T + b) with a = (2, 1), T = 2, b = (0, ln 3): scores (1, 1 + ln 3), shares 1 to 3.
    vector = Calibration(2.0, scale=(2.0, 1.0), bias=(0.0, math.log(3.0)))
    assert calibrated(logits, vector)[0] == pytest.approx([0.25, 0.75])
    # softmax((0, 0)) = (.5, .5). By the first curve .5 is half-way from .1 to .3; the second is flat at 0, held at .05.
    curves = (Curve((0.4, 0.6), (0.1, 0.3)), Curve((0.7, 0.9), (0.0, 1.0)))
    isotonic = Calibration(1.0, curves=curves, floor=0.05)
    assert calibrated(np.zeros((1, 2)), isotonic)[0] == pytest.approx([0.8, 0.2])
    assert calibrated(np.zeros((0, 2)), isotonic).shape == (0, 2)


def test_the_error_is_that_of_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    probs, weight = rng.dirichlet(np.ones(3), size=500), rng.uniform(0.5, 2.0, 500)
    target = _drawn(probs**2 / (probs**2).sum(axis=1, keepdims=True), seed=1)
    right = target[np.arange(500), probs.argmax(axis=1)]
    expected = expected_calibration_error(binned(probs.max(axis=1), right, weight=weight))
    assert calibration_error(probs, target, weight=weight) == pytest.approx(float(expected))


def _steps(logits: np.ndarray) -> np.ndarray:
    """Two steps, which no scale and bias of the scores give: who is more than half sure is right six times in ten."""
    probs = softmax(logits)
    return np.where(probs.max(axis=1, keepdims=True) > 0.5, np.where(probs > 0.5, 0.6, 0.2), 1 / 3)


@pytest.mark.parametrize(
    ("method", "truth"),
    [
        ("none", lambda logits: softmax(logits)),
        ("temperature", lambda logits: softmax(logits, temperature=3.0)),
        ("vector", lambda logits: softmax(logits * np.array([1.0, 0.5, 1.0]) + np.array([1.0, 0.0, -1.0]))),
        ("isotonic", _steps),
    ],
)
def test_the_map_that_the_truth_needs_is_chosen(method: str, truth) -> None:  # type: ignore[no-untyped-def]
    logits, group = _world(0, rows=6000)
    found = fit_calibration(logits, _drawn(truth(logits), seed=1), group=group, source="audit gold")
    # Where nothing is wrong a temperature of about 1 is as good as none.
    assert found.method in ({"none", "temperature"} if method == "none" else {method})
    assert (found.source, found.rows, found.groups) == ("audit gold", 6000, 300)
    assert set(found.scores) == {"none", "temperature", "vector", "isotonic"}
    assert found.scores[found.method].log_loss == min(score.log_loss for score in found.scores.values())
    fresh, _ = _world(2)
    assert np.abs(calibrated(fresh, found) - truth(fresh)).mean() < 0.05


def test_no_probability_is_zero() -> None:
    # The third label never occurs, so that its curve is flat at 0; the first two go in steps.
    logits, group = _world(0, rows=6000)
    target = np.concatenate([_drawn(_steps(logits)[:, :2] + np.array([0.0, 1.0]), seed=1), np.zeros((6000, 1))], axis=1)
    found = fit_calibration(logits, target, group=group, source="x")
    assert found.method == "isotonic"
    probs = calibrated(_world(1)[0], found)
    assert probs.min() > 0
    assert probs.sum(axis=1) == pytest.approx(np.ones(len(probs)))
    # Half a row of 6,001, over curves of the other two that mostly add up to between 1/2 and 2.
    assert 0.25 / 6001 < np.median(probs[:, 2]) < 1 / 6001


def test_groups_are_not_cut_and_choose_by_what_holds_on_others() -> None:
    # Six groups of one repeated score and one label each: what is fitted on some says nothing of another. By rows a map
    # of many numbers looks good, by groups it costs more than none.
    rng = np.random.default_rng(3)
    logits = np.repeat(rng.normal(size=(6, 3)), 40, axis=0)
    target = np.eye(3)[np.repeat([0, 1, 2, 2, 1, 0], 40)]
    by_group = fit_calibration(logits, target, group=np.repeat(np.arange(6), 40), source="x")
    by_row = fit_calibration(logits, target, group=np.arange(240), source="x")
    assert by_row.method == "isotonic"
    # What 240 rows of six groups are worth is too little for curves.
    assert set(by_group.scores) == {"none", "temperature", "vector"}
    assert by_group.scores["vector"].log_loss > by_row.scores["vector"].log_loss + 0.1


def test_few_rows_or_groups_get_little() -> None:
    logits, group = _world(0, rows=400)
    target = _drawn(softmax(logits, temperature=3.0), seed=1)
    few = fit_calibration(logits[:19], target[:19], group=group[:19], source="x")
    assert (few.method, few.source, few.rows) == ("none", "none", 0)
    four = fit_calibration(logits[:80], target[:80], group=group[:80], source="x")
    assert (four.method, four.groups, four.scores) == ("temperature", 4, {})
    assert four.temperature == pytest.approx(fit_temperature(logits[:80], target[:80]))


def test_labels_stay_where_they_have_to() -> None:
    logits, group = _world(0)
    target = _drawn(softmax(logits + np.array([2.0, 0.0, -2.0])), seed=1)
    free = fit_calibration(logits, target, group=group, source="x")
    kept = fit_calibration(logits, target, group=group, source="x", keep_labels=True)
    assert free.method == "vector"
    assert kept.method in {"none", "temperature"}
    assert (calibrated(logits, kept).argmax(axis=1) == logits.argmax(axis=1)).all()
    assert (calibrated(logits, free).argmax(axis=1) != logits.argmax(axis=1)).any()


def test_a_calibration_survives_json() -> None:
    logits, group = _world(0)
    found = fit_calibration(logits, _drawn(_steps(logits), seed=1), group=group, source="audit gold")
    assert Calibration.of_dict(json.loads(json.dumps(asdict(found)))) == found
    # What was written when there was nothing but a temperature.
    old = Calibration.of_dict({"temperature": 1.7, "source": "validation", "rows": 40})
    assert calibrated(logits, old) == pytest.approx(softmax(logits, temperature=1.7))


def test_weights_are_the_same_as_repeats() -> None:
    logits, group = _world(0, rows=200)
    target = _drawn(softmax(logits * 0.5 + np.array([1.0, 0.0, -1.0])), seed=1)
    weight = np.where(np.arange(200) % 2, 1.0, 3.0)
    repeats = np.repeat(np.arange(200), weight.astype(int))
    weighed = fit_calibration(logits, target, group=group, source="x", weight=weight)
    repeated = fit_calibration(logits[repeats], target[repeats], group=group[repeats], source="x")
    # The prior of the vector and the floor of the curves go by the number of rows, which is not the same.
    for name in ("none", "temperature"):
        assert weighed.scores[name].log_loss == pytest.approx(repeated.scores[name].log_loss, abs=1e-3)
