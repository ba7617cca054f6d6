"""Distances between distributions, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from distill.eval.drift.distances import (
    PSI_FLOOR,
    area_under_curve,
    jensen_shannon,
    kolmogorov_smirnov,
    population_stability,
    total_variation,
)
from distill.eval.drift.exchange import adjusted

HALVES, SHIFTED = np.array([0.5, 0.5]), np.array([0.25, 0.75])


def test_population_stability_by_hand():
    # (0.25 - 0.5) ln(0.25 / 0.5) + (0.75 - 0.5) ln(0.75 / 0.5) = 0.25 (ln 2 + ln 1.5) = 0.25 ln 3
    assert population_stability(HALVES, SHIFTED) == pytest.approx(0.25 * math.log(3))
    assert population_stability(HALVES, HALVES) == 0.0


def test_an_empty_cell_counts_as_the_floor_and_not_as_infinity():
    # All in the first cell against all in the second: both cells are (1, f) / (1 + f) and the other way round.
    found = population_stability(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert found == pytest.approx(2 * (1 - PSI_FLOOR) / (1 + PSI_FLOOR) * math.log(1 / PSI_FLOOR))


def test_jensen_shannon_by_hand():
    # Apart altogether: each set is one bit from the mean of both.
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1.0)
    # The mean is (3/8, 5/8): half of 1/2 log2(4/3) + 1/2 log2(4/5), and half of 1/4 log2(2/3) + 3/4 log2(6/5).
    by_hand = 0.25 * (math.log2(4 / 3) + math.log2(4 / 5)) + 0.125 * math.log2(2 / 3) + 0.375 * math.log2(6 / 5)
    assert jensen_shannon(HALVES, SHIFTED) == pytest.approx(by_hand)
    assert jensen_shannon(HALVES, SHIFTED) == jensen_shannon(SHIFTED, HALVES)


def test_kolmogorov_smirnov_minds_the_order_and_total_variation_does_not():
    # Cumulative (0.5, 0.5, 1) against (0, 0.5, 1): 0.5 apart at the first cell.
    assert kolmogorov_smirnov(np.array([0.5, 0.0, 0.5]), np.array([0.0, 0.5, 0.5])) == pytest.approx(0.5)
    # Cumulative (0.5, 0.5, 1) against (0.25, 0.75, 1): 0.25 apart either way; half of 0.25 + 0.5 + 0.25 must move.
    one, other = np.array([0.5, 0.0, 0.5]), np.array([0.25, 0.5, 0.25])
    assert kolmogorov_smirnov(one, other) == pytest.approx(0.25)
    assert total_variation(one, other) == pytest.approx(0.5)


def test_the_area_counts_ties_half():
    # P(current above) + P(tie) / 2 = 0.75 * 0.5 + (0.25 * 0.5 + 0.75 * 0.5) / 2 = 0.625
    assert area_under_curve(HALVES, SHIFTED) == pytest.approx(0.625)


def test_one_call_scores_many_lines():
    many = population_stability(np.stack([HALVES, SHIFTED]), np.stack([SHIFTED, SHIFTED]))
    assert many == pytest.approx([0.25 * math.log(3), 0.0])


def test_p_values_adjusted_by_hand():
    # 0.01 * 4 / 1, 0.02 * 4 / 2, 0.04 * 4 / 3, 0.5 * 4 / 4; each no larger than the next.
    p = np.array([0.5, 0.02, 0.01, 0.04])
    assert adjusted(p) == pytest.approx([0.5, 0.04, 0.04, 0.16 / 3])
    # Yekutieli: times 1 + 1/2 + 1/3 + 1/4 = 25/12.
    assert adjusted(p, yekutieli=True) == pytest.approx([1.0, 1 / 12, 1 / 12, 1 / 9])
