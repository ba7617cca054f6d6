from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.eval.chance_corrected import (
    agreement_weights,
    fleiss_kappa,
    gwet_ac,
    krippendorff_alpha,
    label_counts,
    observed_agreement,
    panel_reliability,
)
from distill.eval.config import EvalConfig

_, A, B, C, D, E = -1, 0, 1, 2, 3, 4
# Four observers, twelve units, five values, votes missing: Krippendorff's example ("Computing Krippendorff's
# Alpha-Reliability", 2011, section C), which Gwet's handbook uses too (table 2.10).
OBSERVERS = [
    [A, B, C, C, B, A, D, A, B, _, _, _],
    [A, B, C, C, B, B, D, A, B, E, _, C],
    [_, C, C, C, B, C, D, B, B, E, A, _],
    [A, B, C, C, B, D, D, A, B, E, A, _],
]


@pytest.fixture
def counts() -> np.ndarray:
    return label_counts([np.array(given) for given in OBSERVERS], labels=5)


def test_alpha_of_the_published_example(counts):
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(counts, level="ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(counts, level="interval") == pytest.approx(0.849, abs=5e-4)


def test_gwet_and_fleiss_of_the_published_example(counts):
    assert gwet_ac(counts) == pytest.approx(0.77544, abs=1e-5)
    assert fleiss_kappa(counts) == pytest.approx(0.76117, abs=1e-5)
    assert observed_agreement(counts) == pytest.approx(0.81818, abs=1e-5)  # Gwet's table: nine of eleven


def test_two_judges_by_hand():
    # both say 0 on 8 rows, both 1 on none, apart on 2: agreement .8, and 0 is 18 of 20 votes
    counts = np.array([[2.0, 0.0]] * 8 + [[1.0, 1.0]] * 2)
    assert observed_agreement(counts) == pytest.approx(0.8)
    # Fleiss: chance .9² + .1² = .82, so worse than chance; AC1: chance 2 · .9 · .1 = .18
    assert fleiss_kappa(counts) == pytest.approx((0.8 - 0.82) / 0.18)
    assert gwet_ac(counts) == pytest.approx((0.8 - 0.18) / 0.82)
    # alpha: coincidences o01 = o10 = 2, n = 20: 1 - 19 * 4 / (2 * 18 * 2)
    assert krippendorff_alpha(counts) == pytest.approx(1 - 19 * 4 / 72)


def test_weights_count_a_near_miss_as_part_of_an_agreement():
    assert agreement_weights(3, "linear").tolist() == [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]
    assert agreement_weights(3, "quadratic")[0].tolist() == [1, 0.75, 0]
    near, far = np.array([[3.0, 0, 0], [0, 0, 3], [1, 1, 0]]), np.array([[3.0, 0, 0], [0, 0, 3], [1, 0, 1]])
    for coefficient in (fleiss_kappa, gwet_ac):
        assert coefficient(near, weights="linear") > coefficient(far, weights="linear")
    assert krippendorff_alpha(near, level="ordinal") > krippendorff_alpha(far, level="ordinal")


def test_nothing_to_say():
    assert np.isnan(krippendorff_alpha(np.array([[1.0, 0.0], [0.0, 1.0]])))  # nobody shares a row
    assert np.isnan(krippendorff_alpha(np.array([[2.0, 0.0], [2.0, 0.0]])))  # one label only
    assert np.isnan(fleiss_kappa(np.array([[2.0, 0.0], [2.0, 0.0]])))
    assert gwet_ac(np.array([[2.0, 0.0], [2.0, 0.0]])) == 1.0  # AC1 expects no agreement by chance there


def test_panel_with_intervals(make_rows, make_votes, task):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, 60)
    said = []
    for judge in "abc":
        for row, label in enumerate(np.where(rng.random(60) < 0.8, truth, rng.integers(0, 4, 60))):
            said.append((f"r{row:03d}", judge, task.labels[label] if rng.random() < 0.9 else None))
    rows = make_rows([None] * 60)
    found = panel_reliability(make_votes(*said), rows, task=task, config=EvalConfig(bootstrap=200))
    assert (found.judges, found.ordered) == (3, True)
    assert 50 < found.rows <= 60
    for one in (found.agreement, found.alpha, found.kappa, found.ac):
        assert one.low is not None and one.low < one.value < one.high
        assert one.groups <= rows["group"].n_unique()
    # the same numbers without a panel
    codes = pl.DataFrame(said, schema=["row", "judge", "label"], orient="row").with_columns(
        pl.col("label").replace_strict(list(task.labels), list(range(4)), default=-1, return_dtype=pl.Int64)
    )
    arrays = [part["label"].to_numpy() for _, part in codes.group_by("judge", maintain_order=True)]
    assert found.alpha.value == pytest.approx(krippendorff_alpha(label_counts(arrays, labels=4), level="ordinal"))
