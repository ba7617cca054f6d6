from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from distill.eval.drawn_rows import drawn_sample
from distill.eval.people.label_next import (
    by_group,
    expected_half_widths,
    inclusion_chances,
    rows_to_label,
)
from distill.eval.prediction_powered import Sample, prediction_powered_mean
from distill.labeling.errors import DataError


def _rows(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {"row_id": [f"r{row}" for row in range(count)], "group": [f"g{row % 40}" for row in range(count)]}
    )


def test_chances_sum_to_the_count_and_never_pass_one():
    # in proportion to 8, 1, 1 for two rows: 1.6 is too much, so 1 and then halves
    assert inclusion_chances(np.array([8.0, 1.0, 1.0]), 2).tolist() == [1.0, 0.5, 0.5]
    assert inclusion_chances(np.ones(4), 4).tolist() == [1.0] * 4


def test_exactly_as_many_rows_and_doubtful_ones_more_often():
    rng = np.random.default_rng(0)
    guess = rng.uniform(0, 1, 1000)
    drawn = rows_to_label(_rows(1000), guess, count=100, explore=0.2, seed=3)
    assert (len(drawn), drawn["row_id"].n_unique()) == (100, 100)
    doubt = dict(zip(_rows(1000)["row_id"], np.sqrt(guess * (1 - guess)), strict=True))
    assert np.mean([doubt[name] for name in drawn["row_id"]]) > np.mean(list(doubt.values()))
    assert drawn["chance"].min() > 0.02 * 0.9  # a fifth of a tenth, whatever the guess
    assert drawn.equals(rows_to_label(_rows(1000), guess, count=100, explore=0.2, seed=3))
    plain = rows_to_label(_rows(1000), guess, count=100, explore=1.0)
    assert plain["chance"].to_numpy() == pytest.approx(0.1)


def test_estimates_from_such_a_draw_are_unbiased_and_surer():
    """Drawn by doubt and weighed back: the mean over draws is the truth, and the spread is less than of plain draws."""
    rng = np.random.default_rng(1)
    guess = np.where(rng.random(2000) < 0.8, 0.98, 0.5)
    right = (rng.random(2000) < guess).astype(float)
    rows = pl.DataFrame({"row_id": [str(row) for row in range(2000)], "group": [str(row) for row in range(2000)]})
    found: dict[float, list[float]] = {0.3: [], 1.0: []}
    for explore, estimates in found.items():
        for seed in range(60):
            drawn = rows_to_label(rows, guess, count=150, explore=explore, seed=seed)
            at = drawn["row_id"].cast(pl.Int64).to_numpy()
            truth, chance = np.full(2000, np.nan), np.ones(2000)
            truth[at], chance[at] = right[at], drawn["chance"].to_numpy()
            sample = Sample(truth, guess, np.arange(2000), chance=chance)
            estimates.append(prediction_powered_mean(sample, tuning=1.0).estimate.value)
        assert np.mean(estimates) == pytest.approx(right.mean(), abs=3.5 * np.std(estimates) / np.sqrt(60))
    assert np.std(found[0.3]) < np.std(found[1.0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"count": 11}, "11 asked for of 10"),
        ({"count": 2, "explore": 0.0}, "explore must lie above 0"),
        ({"count": 2, "guess": np.full(10, 1.5)}, "one probability a row"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments, said):
    with pytest.raises(DataError, match=said):
        rows_to_label(_rows(10), **{"guess": np.full(10, 0.5), **arguments})


def test_the_interval_expected_is_about_the_one_that_comes():
    rng = np.random.default_rng(5)
    guess, group = rng.uniform(0.5, 1.0, 3000), np.arange(3000).astype(str)
    right = (rng.random(3000) < guess).astype(float)
    truth = np.where(np.arange(3000) < 100, right, np.nan)
    now = drawn_sample(truth, guess, group, np.full(3000, np.nan))
    rows = pl.DataFrame({"row_id": group[100:], "group": group[100:]})
    drawn = rows_to_label(rows, guess[100:], count=400, seed=2)
    chance = np.full(3000, np.nan)
    chance[drawn["row_id"].cast(pl.Int64).to_numpy()] = drawn["chance"].to_numpy()
    expected = expected_half_widths(now, chance)
    truth = np.where(np.isfinite(chance), right, truth)
    came = prediction_powered_mean(drawn_sample(truth, guess, group, chance)).estimate
    assert expected.measured and expected.now > expected.then
    assert expected.then == pytest.approx((came.high - came.low) / 2, rel=0.15)
    none = drawn_sample(np.full(3000, np.nan), guess, group, np.full(3000, np.nan))
    assert expected_half_widths(none, chance).now is None and not expected_half_widths(none, chance).measured


def test_rows_are_handed_out_by_query_in_no_order_of_doubt():
    guess = np.random.default_rng(0).uniform(0, 1, 1000)
    handed = by_group(rows_to_label(_rows(1000), guess, count=120, seed=3), seed=3)
    groups = handed["group"].to_list()
    changes = sum(one != other for one, other in pairwise(groups))
    assert changes == len(set(groups)) - 1
    assert groups != sorted(groups)
