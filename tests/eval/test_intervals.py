from __future__ import annotations

import math

import numpy as np
import pytest

from distill.eval import intervals
from distill.eval.intervals import Resamples, Size, estimate, ratio_estimates, wilson


def test_a_resample_draws_whole_groups_as_many_as_there_are():
    resamples = Resamples.of(np.array(["a", "a", "b", "c", "c", "c"]), count=50, seed=1)
    drawn = np.concatenate(list(resamples.chunks()))
    assert drawn.shape == (50, 3)
    assert (drawn.sum(axis=1) == 3).all()
    # of every resample, the rows are the rows of its groups
    rows = resamples.sums(np.ones((6, 1)))[:, 0]
    assert rows == pytest.approx(drawn @ np.array([2, 1, 3]))


def test_sums_and_weights_agree_with_a_plain_loop_over_resamples():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 9, 40).astype(str)
    values = rng.normal(size=(40, 2))
    resamples = Resamples.of(group, count=30, seed=4)
    drawn = np.concatenate(list(resamples.chunks()))
    names = sorted(set(group))
    expected = np.zeros((30, 2))
    for b in range(30):
        for i in range(40):
            expected[b] += drawn[b, names.index(group[i])] * values[i]
    assert resamples.sums(values) == pytest.approx(expected)
    assert resamples.map_weights(lambda times: times @ values[:, 0]) == pytest.approx(expected[:, 0])
    some = np.array([3, 5, 8])
    of_some = sum(drawn[:, names.index(group[i])] * values[i, 1] for i in some)
    assert resamples.sums(values[some], rows=some)[:, 1] == pytest.approx(of_some)


def test_same_seed_same_resamples_however_they_are_cut_and_kept(monkeypatch):
    group = np.arange(40).astype(str)
    one = Resamples.of(group, count=200, seed=9)
    again = Resamples.of(group, count=200, seed=9)
    other = Resamples.of(group, count=200, seed=10)
    values = np.random.default_rng(0).normal(size=(40, 1))
    assert np.array_equal(one.sums(values), again.sums(values))
    assert not np.array_equal(one.sums(values), other.sums(values))
    monkeypatch.setattr(intervals, "_CELLS_KEPT", 0)  # drawn anew for every statistic, as for very many groups
    unkept = Resamples.of(group, count=200, seed=9)
    assert np.array_equal(unkept.sums(values), one.sums(values))
    assert np.array_equal(unkept.sums(values), one.sums(values))


def test_rows_that_resemble_each_other_widen_the_interval():
    # 40 groups of 10 equal rows: 400 rows that are worth 40
    truth = (np.random.default_rng(2).random(40) < 0.7).astype(float)
    values = np.repeat(truth, 10)[:, None]
    by_group = Resamples.of(np.repeat(np.arange(40), 10).astype(str), count=2000, seed=0)
    by_row = Resamples.of(np.arange(400).astype(str), count=2000, seed=0)
    wide = ratio_estimates(values, np.ones_like(values), by_group, level=0.95)[0]
    narrow = ratio_estimates(values, np.ones_like(values), by_row, level=0.95)[0]
    # standard errors differ by the square root of 10; for 40 groups the quantile is 2.0485 and not 1.96
    expected = math.sqrt(10) * 2.0485 / 1.96
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(expected, rel=0.1)
    assert (wide.rows, wide.groups) == (400, 40)


def test_interval_of_a_mean_matches_the_textbook():
    rng = np.random.default_rng(1)
    values = rng.normal(5, 2, 400)
    resamples = Resamples.of(np.arange(400).astype(str), count=4000, seed=0)
    draws = resamples.sums(values[:, None])[:, 0] / 400
    found = estimate(values.mean(), draws, Size(400, 400), level=0.9)
    error = values.std(ddof=1) / 20
    assert found.low == pytest.approx(values.mean() - 1.645 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.645 * error, abs=0.1 * error)


def test_the_reach_is_wider_for_few_groups_and_plain_for_many():
    assert intervals._quantile(10**6, 0.95) == pytest.approx(1.959964, abs=1e-5)
    # G = 10: t quantile 2.2622, times sqrt(10/9)
    assert intervals._quantile(10, 0.95) == pytest.approx(2.3846, abs=1e-4)


def test_a_share_has_its_interval_on_the_logit_scale_and_a_difference_on_its_own():
    # draws 0.85 and 0.95 in equal parts: spread 0.05, times 1.959964 for very many groups
    draws = np.tile([0.85, 0.95], 500)
    size = Size(10**7, 10**7)
    plain = estimate(0.9, draws, size, level=0.95)
    assert (plain.low, plain.high) == pytest.approx((0.802002, 0.997998), abs=1e-5)
    # ln(0.9 / 0.1) = 2.197225, less and plus 0.097998 / (0.9 * 0.1) = 1.088869: 1 / (1 + e^-1.108356), and of 3.286094
    share = estimate(0.9, draws, size, level=0.95, proportion=True)
    assert (share.low, share.high) == pytest.approx((0.751823, 0.963951), abs=1e-5)
    assert share == estimate(0.9, draws, size, level=0.95, bounds=(0.0, 1.0))
    # a loss: 0.9 times and over e^(0.097998 / 0.9) = 1.115039
    loss = estimate(0.9, draws, size, level=0.95, bounds=(0.0, math.inf))
    assert (loss.low, loss.high) == pytest.approx((0.807147, 1.003535), abs=1e-5)
    # at a bound there is no such scale
    bound = estimate(1.0, draws, size, level=0.95, bounds=(0.0, 1.0))
    assert (bound.low, bound.high) == pytest.approx((1 - 0.097998, 1 + 0.097998), abs=1e-5)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # z = 1.959964: at 0 of n the upper end is z^2 / (n + z^2)
    [(0, 16, 0.0, 3.841459 / 19.841459), (16, 16, 16 / 19.841459, 1.0), (5, 10, 0.236593, 0.763407)],
)
def test_wilson(successes, trials, low, high):
    assert wilson(successes, trials, level=0.95) == pytest.approx((low, high), abs=1e-6)


def test_what_never_happened_still_has_an_interval():
    nothing = np.zeros((16, 1))
    resamples = Resamples.of(np.arange(16).astype(str), count=200, seed=0)
    found = ratio_estimates(nothing, np.ones_like(nothing), resamples, level=0.95)[0]
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(wilson(0, 16, level=0.95)[1])


def test_undefined_and_thin_evidence_say_so():
    resamples = Resamples.of(np.array(["a", "a"]), count=100, seed=0)
    one = np.ones((2, 1))
    empty = ratio_estimates(one * 0, one * 0, resamples, level=0.95)[0]
    assert empty.value is None and empty.note == "no rows"
    single = ratio_estimates(np.array([[1.0], [0.0]]), one, resamples, level=0.95)[0]
    assert (single.value, single.low) == (0.5, None)
    assert "one group" in single.note


@pytest.mark.parametrize("groups", [25, 100])
def test_ninety_percent_means_ninety_percent(groups):
    """Queries of uneven size whose rows share their luck: the interval holds the true mean 87 to 93 times of 100."""
    rng = np.random.default_rng(5)
    repeats, covered = 600, 0
    for _ in range(repeats):
        sizes = rng.integers(4, 13, groups)
        luck = rng.beta(3, 1.5, groups)  # mean 2/3: a row is right with its query's own chance
        group = np.repeat(np.arange(groups), sizes)
        right = (rng.random(len(group)) < luck[group]).astype(float)[:, None]
        resamples = Resamples.of(group.astype(str), count=300, seed=int(rng.integers(1 << 30)))
        found = ratio_estimates(right, np.ones_like(right), resamples, level=0.9)[0]
        covered += found.low <= 2 / 3 <= found.high
    # the standard error of the count itself is 1.2 points
    assert 0.86 <= covered / repeats <= 0.94
