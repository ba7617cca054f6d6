from __future__ import annotations

import numpy as np
import pytest

from distill.eval.prediction_powered import Sample, prediction_powered_mean
from distill.labeling.errors import DataError


def _drawn(seed: int, *, labeled: int, unlabeled: int, shift: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Truths of which the first few are known, and guesses that are off by a constant."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(2, 1, labeled + unlabeled)
    truth = (rng.random(labeled + unlabeled) < chance).astype(float)
    truth[labeled:] = np.nan
    return truth, np.clip(chance + shift, 0.0, 1.0)


def test_equal_to_the_papers_formulas():
    """Point estimate, tuning and standard error of ppi-python 0.2.3, whose formulas are written out here."""
    truth, guess = _drawn(0, labeled=400, unlabeled=3000)
    y, f, rest = truth[:400], guess[:400], guess[400:]
    found = prediction_powered_mean(Sample(truth, guess, np.arange(3400)))
    variance = np.var(np.concatenate([f, rest]), ddof=1)
    best = np.mean((y - y.mean()) * (f - f.mean())) / ((1 + 400 / 3000) * variance)
    assert found.tuning == pytest.approx(best)
    assert 0.9 < best < 1.0
    assert found.estimate.value == pytest.approx(best * rest.mean() + (y - best * f).mean())
    error = np.sqrt(np.var(best * rest) / 3000 + np.var(y - best * f) / 400)
    # theirs divides by n, and the jackknife here by n - 1
    assert found.standard_error == pytest.approx(error * np.sqrt(400 / 399), rel=2e-3)
    assert found.labels_alone.value == pytest.approx(y.mean())
    assert found.worth == pytest.approx(np.var(y) / 400 / error**2, rel=5e-3)


@pytest.mark.parametrize("tuning", [0.0, 0.5, 1.0])
def test_any_tuning_is_unbiased(tuning):
    found = []
    for seed in range(200):
        truth, guess = _drawn(seed, labeled=60, unlabeled=400, shift=0.3)
        sample = Sample(truth, guess, np.arange(460))
        found.append(prediction_powered_mean(sample, tuning=tuning).estimate.value)
    # the mean of Beta(2, 1) is 2/3; the guesses themselves read above .8
    assert np.mean(found) == pytest.approx(2 / 3, abs=3 * np.std(found) / np.sqrt(200))


def test_worthless_guesses_cost_nothing():
    rng = np.random.default_rng(1)
    truth, _ = _drawn(1, labeled=300, unlabeled=3000)
    found = prediction_powered_mean(Sample(truth, rng.random(3300), np.arange(3300)))
    assert found.tuning < 0.1
    assert found.worth == pytest.approx(1.0, abs=0.02)


def test_groups_widen_the_interval_by_hand():
    # four groups of two equal rows: 1 1, 0 0, 1 1, 1 1; mean .75
    truth, group = np.array([1.0, 1, 0, 0, 1, 1, 1, 1]), np.repeat(np.arange(4), 2)
    found = prediction_powered_mean(Sample(truth, np.zeros(8), group))
    # sums of influence: .0625, -.1875, .0625, .0625; each over 1 - 1/4; (3/4) * sum of squares
    wanted = np.sqrt(0.75 * (3 * (0.0625 / 0.75) ** 2 + (0.1875 / 0.75) ** 2))
    assert found.standard_error == pytest.approx(wanted)
    assert found.standard_error == pytest.approx(np.std([1, 0, 1, 1], ddof=1) / 2)  # as of four observations
    assert (found.estimate.rows, found.estimate.groups) == (8, 4)
    # logit scale: log 3 + t(3) * error / (.75 * .25)
    reach = 3.182446 * wanted / 0.1875
    assert found.estimate.high == pytest.approx(1 / (1 + np.exp(-(np.log(3) + reach))), rel=1e-5)
    assert "only 4 labeled groups" in found.estimate.note


def test_strata_are_weighted_by_their_rows():
    nan = np.nan
    truth = np.array([1.0, 1.0, nan, nan, nan, nan, 0.0, 1.0, nan, nan])
    stratum = np.array(["a"] * 6 + ["b"] * 4)
    found = prediction_powered_mean(Sample(truth, np.zeros(10), np.arange(10), stratum=stratum))
    assert found.estimate.value == pytest.approx(0.6 * 1.0 + 0.4 * 0.5)
    with pytest.raises(DataError, match="stratum 'b' has 1 labeled rows of 4"):
        prediction_powered_mean(Sample(np.append(truth[:7], [nan] * 3), np.zeros(10), np.arange(10), stratum=stratum))


def test_rows_chosen_on_purpose_count_by_how_likely_they_were():
    # rows of truth 0 are drawn four times as often; each counts 1 / chance
    chance = np.array([0.8, 0.8, 0.8, 0.8, 0.2, 0.2])
    truth = np.array([0.0, 0, 0, 0, 1, np.nan])
    found = prediction_powered_mean(Sample(truth, np.zeros(6), np.arange(6), chance=chance))
    assert found.estimate.value == pytest.approx(5 / (4 * 1.25 + 5))
    with pytest.raises(DataError, match="chance"):
        prediction_powered_mean(Sample(truth, np.zeros(6), np.arange(6), chance=np.zeros(6)))


def test_all_labeled_needs_no_guess():
    truth = np.array([1.0, 0.0, 1.0, 1.0])
    found = prediction_powered_mean(Sample(truth, np.array([0.2, 0.9, 0.1, 0.4]), np.arange(4)))
    assert (found.tuning, found.estimate.value, found.worth) == (0.0, 0.75, 1.0)


def test_bounds_hold():
    truth, guess = _drawn(3, labeled=12, unlabeled=100)
    truth[:12] = [1.0] * 11 + [0.0]
    found = prediction_powered_mean(Sample(truth, guess, np.arange(112)), tuning=0.0)
    assert 0.0 < found.estimate.low < found.estimate.value < found.estimate.high < 1.0
    free = prediction_powered_mean(Sample(truth, guess, np.arange(112)), tuning=0.0, bounds=None)
    assert free.estimate.high > 1.0


def test_bad_arrays_are_named():
    with pytest.raises(DataError, match=r"lengths \[2, 3\]"):
        Sample(np.ones(3), np.ones(2), np.arange(3))
    with pytest.raises(DataError, match="guess of row 1 is nan"):
        Sample(np.ones(2), np.array([0.5, np.nan]), np.arange(2))


def test_a_draw_on_purpose_leaves_no_sample_over():
    """The mean of the guesses is then of all rows: by hand, with weights 1/4, 1/4, 1/2 of the labeled rows."""
    nan = np.nan
    truth, guess = np.array([1.0, 0.0, 1.0, nan, nan]), np.array([0.9, 0.3, 0.6, 0.8, 0.9])
    chance = np.array([0.8, 0.8, 0.4, 0.4, 0.4])
    found = prediction_powered_mean(Sample(truth, guess, np.arange(5), chance=chance), tuning=0.5)
    # 0.5 * mean(all guesses) + 1/4 (1 - .45) + 1/4 (0 - .15) + 1/2 (1 - .3)
    assert found.estimate.value == pytest.approx(0.5 * 0.7 + 0.25 * 0.55 - 0.25 * 0.15 + 0.5 * 0.7)


def test_labels_that_are_all_alike_are_not_certain():
    truth = np.array([1.0] * 12 + [np.nan] * 50)
    found = prediction_powered_mean(Sample(truth, np.full(62, 0.9), np.arange(62)))
    # Wilson's lower end for 12 of 12: 12 / (12 + 1.96^2)
    assert found.estimate.value == 1.0
    assert found.estimate.low == pytest.approx(12 / (12 + 1.959964**2))
    assert (found.estimate.high, found.worth, found.as_good_as) == (1.0, None, None)
    even = prediction_powered_mean(Sample(truth - 1.0, np.zeros(62), np.arange(62)), bounds=(-1.0, 1.0))
    assert even.estimate.low == -even.estimate.high == pytest.approx(-(1 - 12 / (12 + 1.959964**2)))


def test_labels_alone_know_of_no_strata():
    truth = np.array([1.0, 1.0, np.nan, np.nan, np.nan, np.nan, 0.0, 1.0, np.nan, np.nan])
    found = prediction_powered_mean(Sample(truth, np.zeros(10), np.arange(10), stratum=np.array(["a"] * 6 + ["b"] * 4)))
    assert (found.estimate.value, found.labels_alone.value) == (pytest.approx(0.8), 0.75)
