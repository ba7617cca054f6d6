"""How far the voters of a panel err together."""

from itertools import permutations

import numpy as np
import polars as pl
import pytest

from distill.labeling.errors import DataError
from distill.labeling.merging.dependence import USUAL_BETWEEN, USUAL_KAPPA, panel_dependence


def simulate(*, rows, families, members=1, between, accuracy=0.8, seed=0):
    """Votes on a yes/no question whose errors correlate by ``between`` between families and wholly within one.

    With probability ``between`` a voter errs as one common coin says, else as its family's own coin: two families then
    share the coin, and are correlated, with probability ``between`` if one draw decides for the row.
    """
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, rows)
    common = random.random(rows) > accuracy
    shared = random.random(rows) < between
    votes = []
    for family in range(families):
        wrong = np.where(shared, common, random.random(rows) > accuracy)
        for member in range(members):
            label = np.where(wrong, 1 - truth, truth)
            name = pl.lit(f"f{family}t{member}").alias("teacher")
            ids = pl.Series("row_id", [f"r{index}" for index in range(rows)])
            frame = pl.DataFrame({"row_id": ids, "label": pl.Series(label.astype(str))})
            votes.append(frame.with_columns(name, pl.lit(f"f{family}").alias("family")))
    gold = pl.DataFrame({"row_id": [f"r{index}" for index in range(rows)], "gold": truth.astype(str)})
    return pl.concat(votes), gold


@pytest.mark.parametrize("between", [0.0, 0.3, 0.6])
def test_gold_shows_the_error_correlation_that_was_put_in(between):
    votes, gold = simulate(rows=4000, families=5, between=between)
    found = panel_dependence(votes, gold=gold)
    # Ten pairs over 4,000 rows; four standard errors of one pair's phi are 4 / sqrt(4000) = 0.063.
    assert found.between == pytest.approx(between, abs=0.063)
    assert found.source == "gold" and found.families == 5 and found.within is None
    assert found.n_eff == pytest.approx(5 / (1 + 4 * found.between))


def test_within_a_family_that_copies_itself_the_correlation_is_one():
    votes, gold = simulate(rows=500, families=3, members=2, between=0.2)
    for source in (gold, None):
        found = panel_dependence(votes, gold=source)
        assert found.within == pytest.approx(1.0)
        assert found.teachers == 6 and found.pairs.height == 15


def test_without_gold_the_other_families_stand_in_and_independent_voters_look_so():
    votes, _ = simulate(rows=4000, families=9, between=0.0)
    found = panel_dependence(votes)
    # Seven others are rarely wrong together (their majority errs on 3% of rows), so what is left is small.
    assert found.source == "consensus" and found.between < 0.1
    assert found.n_eff > 5


def test_without_gold_shared_errors_are_seen_in_part_and_never_overstated_here():
    low, high = (panel_dependence(simulate(rows=4000, families=6, between=share)[0]) for share in (0.0, 0.5))
    assert low.between < high.between + 0.05 and high.between <= 0.5 + 0.063


def test_consensus_correlation_of_three_families_by_hand():
    # x and y are judged by z alone: z says 0 everywhere. x differs from it on rows 0-29, y on rows 20-49, of 100.
    # Shares wrong 0.3 and 0.3, both wrong 0.1: phi = (0.1 - 0.09) / (0.3 * 0.7) = 1 / 21.
    x = ["1" if index < 30 else "0" for index in range(100)]
    y = ["1" if 20 <= index < 50 else "0" for index in range(100)]
    parts = [
        pl.DataFrame({"row_id": range(100), "label": label}).with_columns(pl.lit(name).alias("teacher"))
        for name, label in (("x", x), ("y", y), ("z", ["0"] * 100))
    ]
    found = panel_dependence(pl.concat(parts))
    pair = found.pairs.filter(pl.col("teacher_a") == "x", pl.col("teacher_b") == "y").to_dicts()[0]
    assert pair["error_correlation"] == pytest.approx(1 / 21)
    # Agreement on 100 - 40 rows; by chance 0.3 * 0.3 + 0.7 * 0.7 = 0.58; kappa = (0.6 - 0.58) / 0.42.
    assert (pair["rows"], pair["agreement"]) == (100, pytest.approx(0.6))
    assert pair["kappa"] == pytest.approx(0.02 / 0.42)
    # Judged by y, x is wrong on 40 rows, z on 30, of which 20 are shared: phi = (0.2 - 0.12) / sqrt(0.24 * 0.21).
    # Judged by x, y is wrong on 40 and z on 30 with 20 shared: the same. Drawn to 0.4 as 100 pairs to 300.
    other = 0.08 / (0.24 * 0.21) ** 0.5
    assert found.between == pytest.approx((100 * (1 / 21 + 2 * other) + 100 * USUAL_BETWEEN) / 400)


def test_fleiss_kappa_between_families_by_hand():
    # 30 rows: on 20 all three families say a, on 10 two say a and one b. Agreeing pairs: 20 * 3 + 10 * 1 = 70 of 90.
    # a is said 80 times of 90: chance (8/9)^2 + (1/9)^2 = 65/81. kappa = (7/9 - 65/81) / (16/81) = -2/16.
    votes = [(index, name, "b" if index >= 20 and name == "z" else "a") for index in range(30) for name in "xyz"]
    found = panel_dependence(pl.DataFrame(votes, schema=["row_id", "teacher", "label"], orient="row"))
    assert found.kappa == pytest.approx((90 * (-2 / 16) + 100 * USUAL_KAPPA) / 190)
    # k = (1 - kappa) / (2 kappa).
    assert found.prior_strength == pytest.approx((1 - found.kappa) / (2 * found.kappa))


def test_a_panel_that_shows_nothing_gets_what_is_usual():
    votes = pl.DataFrame({"row_id": ["1", "2"], "teacher": ["x", "x"], "label": ["a", "b"]})
    found = panel_dependence(votes)
    assert (found.between, found.kappa, found.source) == (USUAL_BETWEEN, USUAL_KAPPA, "assumed")
    assert found.n_eff == 1.0 and found.prior_strength == pytest.approx(0.25) and found.pairs.is_empty()


def test_two_families_have_no_third_to_be_judged_by():
    votes, gold = simulate(rows=1000, families=2, between=0.1)
    assert panel_dependence(votes).source == "assumed"
    assert panel_dependence(votes).between == USUAL_BETWEEN
    assert panel_dependence(votes, gold=gold).source == "gold"


def test_gold_of_other_rows_or_outside_the_set_is_left_aside():
    votes, gold = simulate(rows=300, families=3, between=0.3)
    odd = pl.DataFrame({"row_id": ["r0", "elsewhere", "r1"], "gold": ["nonsense", "1", None]})
    assert panel_dependence(votes, gold=pl.concat([gold.filter(pl.col("row_id") != "r0"), odd])).source == "gold"
    assert panel_dependence(votes, gold=odd).source == "assumed"


def test_a_big_panel_is_sampled(monkeypatch):
    monkeypatch.setattr("distill.labeling.merging.dependence._MOST_ROWS", 300)
    monkeypatch.setattr("distill.labeling.merging.dependence._MOST_TEACHERS", 8)
    monkeypatch.setattr("distill.labeling.merging.dependence._MOST_FAMILY_PAIRS", 10)
    votes, _ = simulate(rows=1000, families=12, between=0.3)
    found = panel_dependence(votes)
    assert found.teachers == 12 and found.pairs["rows"].max() <= 300
    assert found.pairs.height == 8 * 7 / 2 and found.pairs["error_correlation"].drop_nulls().len() < 28


def test_a_table_without_labels_is_refused():
    with pytest.raises(DataError, match="missing column"):
        panel_dependence(pl.DataFrame({"row_id": ["1"], "teacher": ["x"]}))


def test_the_order_of_samples_decides_no_tie():
    """Label a: 3/7 + 2/7 + 4/11 = 83/77; label c: 1/7 + 4/7 + 4/11 as much. In floats, whichever is added up so."""
    samples = [[3 / 7, 3 / 7, 1 / 7], [2 / 7, 1 / 7, 4 / 7], [4 / 11, 3 / 11, 4 / 11]]
    certain = [0.0, 0.0, 1.0]
    rest = [("r0", "t0", 0, certain), ("r0", "t1", 0, certain), ("r1", "t0", 0, certain)]
    found = set()
    for order in permutations(enumerate(samples)):
        lines = [("r1", "t1", number, probs) for number, probs in order] + rest
        votes = pl.DataFrame(lines, schema=["row_id", "teacher", "sample", "probs"], orient="row")
        votes = votes.with_columns(label=pl.lit("c"), family="teacher")
        found.add(round(panel_dependence(votes, labels=["a", "b", "c"]).prior_strength, 9))
    assert len(found) == 1
