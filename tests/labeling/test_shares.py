from __future__ import annotations

import math
import random

import pytest

from distill.eval.intervals import wilson
from distill.labeling.shares import anytime_share, log_mixture_ratio, wilson_share


def test_wilson_is_the_interval_of_the_reports() -> None:
    for successes, trials in ((0, 5), (3, 7), (40, 80), (9, 9)):
        share = wilson_share(successes, trials)
        assert (share.low, share.high) == pytest.approx(wilson(successes, trials, level=0.95))
    assert wilson_share(0, 0).value is None


def test_mixture_ratio_by_hand() -> None:
    # One success of two: the uniform mixture gives it 1/6 (B(2, 2)), the rate 0.9 gives 0.9 x 0.1 = 0.09.
    assert log_mixture_ratio(1, 2, 0.9) == pytest.approx(math.log((1 / 6) / 0.09))


def test_anytime_ends_are_where_the_mixture_wins_by_twenty() -> None:
    share = anytime_share(30, 100)
    assert share.value == 0.3 and share.low is not None and share.high is not None
    for end in (share.low, share.high):
        assert log_mixture_ratio(30, 100, end) == pytest.approx(math.log(20), abs=1e-6)
    assert share.low < wilson_share(30, 100).low < 0.3 < wilson_share(30, 100).high < share.high  # type: ignore[operator]


def test_anytime_ends_at_nothing_and_at_everything() -> None:
    # No success in n: the mixture gives 1 / (n + 1), the rate p (1 - p)^n, so the end is 1 - (1 / (20 (n + 1)))^(1/n).
    assert anytime_share(0, 10)[3:] == pytest.approx((0.0, 1 - (1 / 220) ** 0.1))
    assert anytime_share(10, 10)[3:] == pytest.approx(((1 / 220) ** 0.1, 1.0))
    assert anytime_share(0, 0).high is None


def test_looking_after_every_trial_seldom_leaves_the_truth_out() -> None:
    """Ville's inequality: at most 5% of sequences ever exclude the truth; Wilson's interval does so in most of them."""
    dice, truth, missed, wilson_missed = random.Random(7), 0.6, 0, 0
    bound, sequences, trials = math.log(20), 400, 400
    for _ in range(sequences):
        successes, left, wilson_left = 0, False, False
        for seen in range(1, trials + 1):
            successes += dice.random() < truth
            left = left or log_mixture_ratio(successes, seen, truth) >= bound
            low, high = wilson_share(successes, seen)[3:]
            wilson_left = wilson_left or not low <= truth <= high  # type: ignore[operator]
        missed, wilson_missed = missed + left, wilson_missed + wilson_left
    assert missed <= 0.05 * sequences + 2 * math.sqrt(0.05 * 0.95 * sequences)
    assert wilson_missed > 0.2 * sequences
