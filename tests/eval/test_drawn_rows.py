"""One treatment of rows that had gold anyway, wherever rows are drawn; expected numbers are derived beside them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.drawn_rows import chances, drawn_sample
from distill.eval.few_labels import measure_few_labels
from distill.eval.prediction_powered import Sample, prediction_powered_mean
from distill.labeling.errors import DataError


def test_rows_that_had_a_label_stand_for_themselves_and_drawn_ones_for_the_rest():
    """Four rows had a label, all right; of the other 96, half right, the certain ones were drawn far more often.

    By hand: 0.04 * 1 + 0.96 * (weighted mean of the drawn). The drawn are 2 rows with chance 1/2, both right, and 2
    with chance 1/4, both wrong: (2 * 2 + 0) / (2 * 2 + 2 * 4) = 1/3. In all 0.04 + 0.96 / 3 = 0.36.
    """
    truth, chance = np.full(100, np.nan), np.full(100, np.nan)
    truth[:4] = 1.0
    truth[4:8], chance[4:8] = [1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.25, 0.25]
    group = np.arange(100)
    found = prediction_powered_mean(drawn_sample(truth, np.full(100, 0.5), group, chance), tuning=0.0)
    assert found.estimate.value == pytest.approx(0.36)
    plain = drawn_sample(truth, np.full(100, 0.5), group, np.full(100, np.nan))
    assert plain.chance is None and plain.stratum is None


def test_rows_that_were_sure_to_be_drawn_are_as_those_that_had_a_label():
    truth = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0, np.nan, np.nan])
    null, one = (np.array([fill, fill, 0.5, 0.5, 0.5, 0.5, fill, fill]) for fill in (np.nan, 1.0))
    had, sure = (drawn_sample(truth, np.full(8, 0.5), np.arange(8), chance) for chance in (null, one))
    assert had.stratum.tolist() == sure.stratum.tolist() == ["certain"] * 2 + ["drawn"] * 6
    assert had.chance.tolist() == sure.chance.tolist() == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0]
    # One row on a side is no stratum, and counts by its chance.
    single = drawn_sample(truth, np.full(8, 0.5), np.arange(8), np.array([np.nan, *[0.5] * 5, np.nan, np.nan]))
    assert single.stratum is None and single.chance.tolist() == [1.0, *[0.5] * 5, 1.0, 1.0]


def test_few_labels_and_the_next_draw_come_to_the_same(make_rows, task):
    """Of 100 rows four had gold, on all of which the student is right; nine of the other 96 were drawn.

    Four with chance 1/2, all right, and five with chance 1/4, all wrong: (4 * 2) / (4 * 2 + 5 * 4) = 2/7 of the others
    are right, and in all 0.04 * 1 + 0.96 * 2/7 = 0.3143. Weighed together they would be (4 + 8) / (4 + 8 + 20) = 0.375,
    as if there were 28 other rows. Below ten labels in a stratum guesses are not used: both are by labels alone.
    """
    right = [True] * 8 + [False] * 5
    gold = ["exact" if one else "substitute" for one in right] + [None] * 87
    rows = make_rows(gold, group=[f"g{row}" for row in range(100)])
    chance = pl.Series("chance", [None] * 4 + [0.5] * 4 + [0.25] * 5 + [None] * 87, dtype=pl.Float64)
    rows = rows.with_columns(chance)
    probs = [[0.7, 0.1, 0.1, 0.1]] * 100
    said = pl.DataFrame({"row_id": rows["row_id"], "label": "exact", "probs": probs})
    found = measure_few_labels({"s": said}, rows, task=task, truth_source="human")
    assert found.drawn and found.quality["s"]["accuracy"].estimate.value == pytest.approx(0.04 + 0.96 * 2 / 7)
    truth = np.array([float(one) for one in right] + [np.nan] * 87)
    sample = drawn_sample(truth, np.full(100, 0.7), rows["group"].to_numpy(), chance.to_numpy())
    again = prediction_powered_mean(sample).estimate
    seen = found.quality["s"]["accuracy"].estimate
    assert (again.value, again.low, again.high) == pytest.approx((seen.value, seen.low, seen.high))


def test_both_ways_agree_on_average_and_strata_move_less():
    """Of 400 rows every fourth had a label and is right nine times in ten; the others are right half the time.

    The truth is 0.25 * 0.9 + 0.75 * 0.5 = 0.6, exactly: the labels are fixed, and only the draw is chance. Of the
    others n are drawn, 30 on average with a standard deviation of sqrt(300 * 0.1 * 0.9) = 5.2. Weighed together, those
    that had a label are 100 / (100 + 10 n) of all, which that moves by 0.25 * 0.75 * 5.2 / 30 = 0.032; the two parts
    differ by 0.4, which makes 0.013. The mean of the drawn moves the whole by 0.75 * 0.5 / sqrt(30) = 0.068 either way.
    """
    known = np.arange(400) % 4 == 0
    right = np.empty(400)
    right[known] = np.arange(100) % 10 != 0
    right[~known] = np.arange(300) % 2
    random = np.random.default_rng(0)
    ways: dict[str, list[float]] = {"strata": [], "together": []}
    for _ in range(400):
        drawn = ~known & (random.random(400) < 0.1)
        truth = np.where(known | drawn, right, np.nan)
        chance = np.where(drawn, 0.1, np.nan)
        one = drawn_sample(truth, np.full(400, 0.5), np.arange(400), chance)
        other = Sample(truth, one.guess, one.group, None, one.chance)
        for way, sample in zip(ways, (one, other), strict=True):
            ways[way].append(prediction_powered_mean(sample, tuning=0.0).estimate.value)
    for values in ways.values():
        assert np.mean(values) == pytest.approx(0.6, abs=4 * 0.069 / np.sqrt(400))
    assert np.std(ways["strata"]) < np.std(ways["together"])


def test_strata_of_the_drawn_need_ten_labels_each():
    truth = np.where(np.arange(100) < 40, 1.0, np.nan)
    chance = np.where(np.arange(100) < 10, np.nan, 0.5)
    halves = np.arange(100) % 2 == 0
    found = drawn_sample(truth, np.full(100, 0.5), np.arange(100), chance, stratum=halves)
    assert sorted(set(found.stratum)) == ["certain", "drawn False", "drawn True"]
    few = drawn_sample(truth, np.full(100, 0.5), np.arange(100), chance, stratum=np.arange(100) < 15)
    assert sorted(set(few.stratum)) == ["certain", "drawn"]
    assert drawn_sample(truth, np.full(100, 0.5), np.arange(100), None, stratum=halves).stratum is halves


def test_a_chance_that_is_none_is_said_with_its_row(make_rows):
    rows = make_rows(["exact", "exact", None])
    assert chances(rows, "evaluate") is None
    # A row without gold was not labeled, whatever its chance.
    assert chances(rows.with_columns(chance=pl.Series([0.5, None, 0.0])), "evaluate").tolist() == [0.5, 1.0, 0.0]
    with pytest.raises(DataError, match=r"evaluate: the chance of row 'r001' to be labeled must .* got 1.5"):
        chances(rows.with_columns(chance=pl.Series([0.5, 1.5, None])), "evaluate")
