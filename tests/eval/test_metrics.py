from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.eval import metrics


def test_confusion_counts_gold_by_line_and_prediction_by_column():
    # gold 0 called 0 and 1; gold 1 called 1; gold 2 called 0
    matrix = metrics.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), labels=3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    weighted = metrics.confusion(np.array([0, 0]), np.array([0, 1]), labels=2, weight=np.array([2.5, 0.5]))
    assert weighted.tolist() == [[2.5, 0.5], [0, 0]]


def test_metrics_of_a_matrix_worked_out_by_hand():
    matrix = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 1.0], [1.0, 0.0, 1.0]])  # 10 rows
    assert metrics.accuracy(matrix) == pytest.approx(0.6)  # (3 + 2 + 1) / 10
    # label 0 against the rest: 1 exact missed, 2 others called exact, so 7 of 10 on the right side
    assert metrics.positive_accuracy(matrix, positive=0) == pytest.approx(0.7)
    # F1: 6/(4+5) = 2/3, 4/(4+3) = 4/7, 2/(2+2) = 1/2
    assert metrics.macro_f1(matrix) == pytest.approx((2 / 3 + 4 / 7 + 1 / 2) / 3)
    # distances: 1 + 1 + 1 (one off) + 2 * 1 (two off) = 5 over 10 rows
    assert metrics.mean_grade_error(matrix) == pytest.approx(0.5)


def test_matrix_metrics_take_leading_dimensions_and_are_nan_where_empty():
    stack = np.stack([np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]]), np.zeros((2, 2))])
    assert np.array_equal(metrics.accuracy(stack), [1.0, 0.0, np.nan], equal_nan=True)
    assert np.array_equal(metrics.positive_accuracy(stack, positive=0), [1.0, 0.0, np.nan], equal_nan=True)
    assert np.isnan(metrics.macro_f1(stack)[2])


def test_against_scikit_learn():
    from sklearn import metrics as reference

    rng = np.random.default_rng(3)
    gold, predicted = rng.integers(0, 4, 500), rng.integers(0, 4, 500)
    weight = rng.uniform(0.2, 3, 500)
    probs = rng.dirichlet(np.ones(4), 500)
    matrix = metrics.confusion(gold, predicted, labels=4, weight=weight)
    assert matrix == pytest.approx(reference.confusion_matrix(gold, predicted, sample_weight=weight))
    assert metrics.accuracy(matrix) == pytest.approx(reference.accuracy_score(gold, predicted, sample_weight=weight))
    f1 = reference.f1_score(gold, predicted, average="macro", sample_weight=weight)
    assert metrics.macro_f1(matrix) == pytest.approx(f1)
    rounded = probs[:, 0].round(1)  # many ties
    area = reference.roc_auc_score(gold == 0, rounded, sample_weight=weight)
    assert metrics.auc(rounded, gold == 0, weight=weight) == pytest.approx(area)
    assert metrics.log_losses(probs, gold).mean() == pytest.approx(reference.log_loss(gold, probs))
    one_hot = np.eye(4)[gold]
    assert metrics.brier_scores(probs, gold).mean() == pytest.approx(((probs - one_hot) ** 2).sum(1).mean())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 3)), min_size=1, max_size=25))
def test_auc_is_the_share_of_pairs_won(rows):
    scores = np.array([score for score, _, _ in rows], float)
    positive = np.array([flag for _, flag, _ in rows])
    weight = np.array([times for _, _, times in rows], float)
    won = total = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            pair = weight[i] * weight[j]
            total += pair
            won += pair * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    found = metrics.auc(scores, positive, weight=weight)
    assert math.isnan(found) if total == 0 else found == pytest.approx(won / total)


def test_scores_of_a_row_worked_out_by_hand():
    probs, gold = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]]), np.array([1, 0])
    # -ln 0.3; and a label that was ruled out is held at 1e-6
    assert metrics.log_losses(probs, gold) == pytest.approx([-math.log(0.3), -math.log(1e-6)])
    # .25 + .49 + .04; 1 + 0 + 1
    assert metrics.brier_scores(probs, gold) == pytest.approx([0.78, 2.0])
    # cumulated .5, .8 against 0, 1: (.25 + .04) / 2; cumulated 0, 0 against 1, 1: (1 + 1) / 2
    assert metrics.ranked_probability_scores(probs, gold) == pytest.approx([0.145, 1.0])


def test_a_near_miss_costs_less_than_a_far_one_only_where_labels_are_ordered():
    near, far = np.array([[0.0, 1.0, 0.0]]), np.array([[0.0, 0.0, 1.0]])
    gold = np.array([0])
    assert metrics.ranked_probability_scores(near, gold) < metrics.ranked_probability_scores(far, gold)
    assert metrics.brier_scores(near, gold) == metrics.brier_scores(far, gold)


def test_calibration_bins_close_above():
    edges = metrics.calibration_bin(np.array([0.0, 0.1, 0.1000001, 0.5, 1.0]), bins=10)
    assert edges.tolist() == [0, 0, 1, 4, 9]


def test_calibration_error_against_a_plain_loop():
    rng = np.random.default_rng(0)
    confidence, correct = rng.uniform(0.25, 1, 400), (rng.random(400) < 0.6).astype(float)
    weight = rng.uniform(0.5, 2, 400)
    gap = 0.0
    for low in range(15):
        inside = [i for i in range(400) if low / 15 < confidence[i] <= (low + 1) / 15]
        mass = sum(weight[i] for i in inside)
        if mass:
            sure = sum(weight[i] * confidence[i] for i in inside) / mass
            right = sum(weight[i] * correct[i] for i in inside) / mass
            gap += mass / weight.sum() * abs(sure - right)
    found = metrics.expected_calibration_error(metrics.binned(confidence, correct, weight=weight))
    assert found == pytest.approx(gap)


def test_calibration_error_of_two_bins_by_hand():
    # three rows 90% sure, two of them right: gap |.9 - 2/3|; one row 50% sure and right: gap .5
    confidence, correct = np.array([0.9, 0.9, 0.9, 0.5]), np.array([1.0, 1.0, 0.0, 1.0])
    expected = 0.75 * abs(0.9 - 2 / 3) + 0.25 * 0.5
    assert metrics.expected_calibration_error(metrics.binned(confidence, correct)) == pytest.approx(expected)
