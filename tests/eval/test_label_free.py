from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.label_free import confidence_estimate, rank_teachers, threshold_estimate

QUICK = EvalConfig(bootstrap=200)


def _votes(task, columns: dict[tuple[str, str], np.ndarray]) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame(
            {
                "row_id": [f"r{row:03d}" for row in range(len(codes))],
                "teacher": teacher,
                "family": family,
                "outcome": "labeled",
                "label": [task.labels[code] for code in codes],
            }
        )
        for (teacher, family), codes in columns.items()
    )


def test_teachers_rank_by_what_other_families_say(make_rows, task):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 200)

    def noisy(right: float) -> np.ndarray:
        return np.where(rng.random(200) < right, truth, rng.integers(0, 4, 200))

    good, fair = noisy(0.9), noisy(0.6)
    columns = {("good", "a"): good, ("fair", "b"): fair, ("twin", "b"): fair, ("other", "c"): noisy(0.75)}
    columns[("constant", "d")] = np.zeros(200, int)
    found = rank_teachers(_votes(task, columns), make_rows([None] * 200), task=task, config=QUICK)
    by_name = {one.teacher: one for one in found}
    assert [one.rank for one in found] == [1, 2, 3, 4, 5]
    assert [found[0].teacher, found[-1].teacher] == ["good", "constant"]
    # the twin agrees with fair on everything, which must not lift either
    assert by_name["twin"].agreement.value == by_name["fair"].agreement.value < 0.75
    assert by_name["constant"].kappa.value == pytest.approx(0.0)
    assert "does not grade" in found[0].agreement.note


def test_a_row_without_a_clear_say_counts_for_nobody(make_rows, task):
    # b and c disagree on the second row, so nothing is said of a there
    columns = {("a", "a"): np.array([0, 0]), ("b", "b"): np.array([0, 1]), ("c", "c"): np.array([0, 2])}
    found = {one.teacher: one for one in rank_teachers(_votes(task, columns), make_rows([None] * 2), task=task)}
    assert (found["a"].rows, found["a"].agreement.value) == (1, 1.0)


def test_one_family_has_nothing_to_compare_with(make_rows, task):
    columns = {("a", "x"): np.zeros(3, int), ("b", "x"): np.zeros(3, int)}
    assert rank_teachers(_votes(task, columns), make_rows([None] * 3), task=task) == []


def _predictions(confidence: np.ndarray, right: np.ndarray, task, prefix: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    names = [f"{prefix}{row}" for row in range(len(confidence))]
    probs = [[sure, *[(1 - sure) / 3] * 3] for sure in confidence]
    predictions = pl.DataFrame({"row_id": names, "label": "exact", "probs": probs})
    gold = np.where(right, "exact", "irrelevant")
    return predictions, pl.DataFrame({"row_id": names, "group": names, "gold": gold})


def test_confidence_is_believed_only_where_it_was_checked(task):
    rng = np.random.default_rng(1)
    sure = rng.uniform(0.4, 1.0, 800)
    honest = _predictions(sure, rng.random(800) < sure, task, "h")
    boastful = _predictions(sure, rng.random(800) < sure - 0.3, task, "b")
    other = rng.uniform(0.4, 1.0, 500)
    here, rows = _predictions(other, rng.random(500) < other, task, "t")
    alone = confidence_estimate(here, rows, task=task, config=QUICK)
    assert (alone.believable, alone.expected.value) == (None, pytest.approx(other.mean()))
    assert confidence_estimate(here, rows, task=task, labeled=honest, config=QUICK).believable is True
    off = confidence_estimate(here, rows, task=task, labeled=boastful, config=QUICK)
    assert off.believable is False
    assert off.gap.value == pytest.approx(0.3, abs=0.06)
    assert "above the share right" in off.note
    moved, moved_rows = _predictions(np.full(500, 0.95), rng.random(500) < 0.95, task, "m")
    shifted = confidence_estimate(moved, moved_rows, task=task, labeled=honest, config=QUICK)
    assert shifted.believable is False
    assert shifted.shift > 0.8


def test_thresholded_confidence_by_hand():
    # three of four labeled rows are right: the third highest confidence, .6, is the threshold
    labeled, right = np.array([0.9, 0.8, 0.6, 0.5]), np.array([1.0, 1.0, 0.0, 1.0])
    assert (
        threshold_estimate(np.array([0.95, 0.7, 0.6, 0.59, 0.1]), labeled_confidence=labeled, labeled_right=right)
        == 0.6
    )
    assert threshold_estimate(np.array([0.9]), labeled_confidence=labeled, labeled_right=np.zeros(4)) == 0.0
    assert np.isnan(threshold_estimate(np.array([]), labeled_confidence=labeled, labeled_right=right))


def test_other_queries_are_no_shift(task):
    """Ten rows of one confidence a query: apart by the limit for independent rows, not by that for queries."""
    rng = np.random.default_rng(3)
    sure = np.repeat(rng.uniform(0.5, 1.0, 40), 10)
    predictions, rows = _predictions(sure, rng.random(400) < sure, task, "q")
    rows = rows.with_columns(group=pl.Series([f"g{row // 10}" for row in range(400)]))
    sides = [(predictions[at], rows[at]) for at in (slice(0, 200), slice(200, 400))]
    found = confidence_estimate(*sides[0], task=task, labeled=sides[1], config=QUICK)
    assert found.shift > 1.36 * np.sqrt(2 / 200) and found.believable is True
    moved = predictions.with_columns(probs=pl.Series([[0.97, 0.01, 0.01, 0.01]] * 400))
    away = confidence_estimate(moved[:200], rows[:200], task=task, labeled=sides[1], config=QUICK)
    assert away.believable is False and "otherwise" in away.note


def test_rows_weigh_in_what_is_expected(task):
    predictions, rows = _predictions(np.array([0.9, 0.5]), np.array([True, True]), task, "w")
    heavy = rows.with_columns(weight=pl.Series([3.0, 1.0]))
    assert confidence_estimate(predictions, heavy, task=task, config=QUICK).expected.value == pytest.approx(0.8)
    even = confidence_estimate(predictions, heavy, task=task, config=EvalConfig(weighted=False))
    assert even.expected.value == pytest.approx(0.7)
