from __future__ import annotations

import numpy as np
import pytest

from distill.eval.agreement import cohen_kappa, judge_agreement, label_agreement
from distill.eval.config import EvalConfig


def test_kappa_by_hand_and_against_scikit_learn():
    # Cohen's own kind of table: 20 + 15 of 50 agree; by chance .5 * .6 + .5 * .4 = .5; (.7 - .5) / .5
    assert cohen_kappa(np.array([[20.0, 5.0], [10.0, 15.0]])) == pytest.approx(0.4)
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    second[:120] = first[:120]
    matrix = np.zeros((4, 4))
    np.add.at(matrix, (first, second), 1)
    assert cohen_kappa(matrix) == pytest.approx(cohen_kappa_score(first, second))


def test_kappa_is_undefined_where_chance_alone_agrees_fully():
    assert np.isnan(cohen_kappa(np.array([[7.0, 0.0], [0.0, 0.0]])))


def test_agreement_on_a_label():
    # label 0 was given 3 + 4 times, both gave it twice: 4/7; label 2 by nobody
    matrix = np.array([[2.0, 1.0, 0.0], [2.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    assert label_agreement(matrix) == pytest.approx([4 / 7, 10 / 13, np.nan], nan_ok=True)


def test_pairs_count_common_rows_and_whom_gold_sides_with(make_rows, make_votes, task):
    rows = make_rows(["exact", "exact", "complement", None, "exact"])
    votes = make_votes(
        ("r000", "b", "exact"),
        ("r001", "b", "substitute"),
        ("r002", "b", "exact"),
        ("r003", "b", "exact"),
        ("r000", "a", "exact"),
        ("r001", "a", "exact"),
        ("r002", "a", "substitute"),
        ("r003", "a", "irrelevant"),
        ("r004", "a", "exact"),
        ("r004", "b", None),
    )
    (pair,) = judge_agreement(votes, rows, task=task, config=EvalConfig(bootstrap=100))
    assert (pair.first, pair.second, pair.same_family) == ("a", "b", False)
    assert (pair.rows, pair.disagreements, pair.agreement.value) == (4, 3, 0.25)
    assert pair.table[0] == [1, 1, 0, 0]  # a said exact: b said exact once, substitute once
    # they differ on r001 (gold sides with a), r002 (with neither), r003 (no gold)
    assert (pair.gold_rows, pair.gold_first, pair.gold_second) == (2, 1, 0)
    assert pair.by_label["exact"].value == pytest.approx(2 / 5)
    assert pair.by_label["complement"].value is None


def test_judges_without_a_row_in_common(make_rows, make_votes, task):
    votes = make_votes(("r000", "a", "exact"), ("r001", "b", "exact"))
    (pair,) = judge_agreement(votes, make_rows(["exact", "exact"]), task=task)
    assert (pair.rows, pair.agreement.value, pair.agreement.note) == (0, None, "no rows in common")


def test_the_quickstart_judges_agree_as_its_readme_says(quickstart_rows, quickstart_votes, quickstart_task):
    pairs = judge_agreement(quickstart_votes, quickstart_rows, task=quickstart_task, config=EvalConfig(bootstrap=200))
    found = {(pair.first, pair.second): round(pair.agreement.value, 3) for pair in pairs}
    assert found == {("careful", "literal"): 0.918, ("careful", "quick"): 0.870, ("literal", "quick"): 0.882}
    assert all(pair.same_family and pair.agreement.low < pair.agreement.value < pair.agreement.high for pair in pairs)
