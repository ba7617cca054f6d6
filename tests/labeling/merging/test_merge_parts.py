"""Calibration, clauses, the student's vote, spans, texts and advice; numbers derived in comments."""

import numpy as np
import polars as pl
import pytest

import distill
from distill.labeling.errors import DataError
from distill.labeling.merging.aggregate import aggregate
from distill.labeling.merging.clause_weights import clause_weights
from distill.labeling.merging.merge_calibration import fit_beta
from distill.labeling.merging.panel import Panel
from distill.labeling.merging.panel_advice import dependence_by_label, next_family
from distill.labeling.merging.span_votes import Span, mark_shares, spans_of_marks
from distill.labeling.merging.text_votes import vote_texts

pytestmark = pytest.mark.filterwarnings("ignore::distill.labeling.merging.merge_choice.PanelDependenceWarning")


def panel_of(rows, teachers, accuracy, seed=0):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, rows)
    parts = []
    for place in range(teachers):
        given = np.where(random.random(rows) < accuracy, truth, 1 - truth)
        ids = pl.Series("row_id", [f"r{row}" for row in range(rows)])
        parts.append(
            pl.DataFrame({"row_id": ids, "label": given.astype(str)}).with_columns(teacher=pl.lit(f"t{place}"))
        )
    gold = pl.DataFrame({"row_id": [f"r{row}" for row in range(rows)], "gold": truth.astype(str)})
    return pl.concat(parts), gold


def test_gold_rows_bring_confidence_to_accuracy_and_none_leaves_it():
    votes, gold = panel_of(2000, 1, 0.7)
    plain = aggregate(votes, labels=["0", "1"])
    told = aggregate(votes, labels=["0", "1"], gold=gold.head(400))
    rest = told.join(gold.tail(1600), on="row_id")
    accuracy = (rest["label"] == rest["gold"]).mean()
    # A lone voter is stated at 0.9 by the usual kappa; 400 gold rows know 0.7 to within 4 * sqrt(0.21 / 400) = 0.09.
    assert plain["confidence"].mean() > 0.85 and told["confidence"].mean() == pytest.approx(accuracy, abs=0.09)
    assert told["label"].to_list() == plain["label"].to_list()
    np.testing.assert_allclose(told["probs"].list.max(), told["confidence"], atol=1e-9)
    untold = aggregate(votes, labels=["0", "1"], gold=gold.clear())
    np.testing.assert_allclose(untold["confidence"], plain["confidence"], atol=1e-9)


def test_groups_with_gold_of_their_own_are_calibrated_apart():
    good, gold_good = panel_of(300, 1, 0.95, seed=1)
    bad, gold_bad = panel_of(300, 1, 0.6, seed=2)
    far = pl.col("row_id") + "b"
    votes = pl.concat([good, bad.with_columns(far)])
    gold = pl.concat([gold_good.with_columns(group=pl.lit("g")), gold_bad.with_columns(far, group=pl.lit("b"))])
    told = aggregate(votes, labels=["0", "1"], gold=gold)
    assert told["confidence"][:300].mean() > told["confidence"][300:].mean() + 0.2


def test_two_gold_rows_change_little():
    features = np.array([[np.log(0.9), -np.log(0.1), 1.0]] * 2)
    found = fit_beta(features, np.zeros(2), towards=np.array([1.0, 1.0, 0.0]))
    # Both wrong at a stated 0.9: down, but far from 0.
    assert 0.3 < 1 / (1 + np.exp(-features[0] @ found)) < 0.9


def test_clauses_in_agreement_turn_a_vote_up_and_at_odds_down():
    votes = pl.DataFrame(
        {
            "row_id": ["1"] * 4 + ["2"],
            "teacher": ["w", "x", "y", "z", "w"],
            "label": ["a", "a", "b", "b", "a"],
            "clauses": [["E1", "E2"], ["E1"], ["E2"], [], ["E1"]],
        }
    )
    weight = clause_weights(votes, Panel.from_votes(votes, ["a", "b"]), strength=0.5)
    # w: x (same label) cites one of its two clauses, y (other label) the other: 1 + 0.5 (1/2 - 1/2). x: w cites its one
    # clause, y does not: 1 + 0.5. y: of w and x, one cites its clause for another label: 1 - 0.5 / 2. z and row 2: 1.
    assert weight == pytest.approx([1.0, 1.5, 0.75, 1.0, 1.0])
    # Shares: a (1 + 1.5) of 1 + 1.5 + 0.75 + 1 = 4.25.
    found = aggregate(votes, labels=["a", "b"], method={"type": "family_vote", "clause_agreement": 0.5})
    assert found["probs"][0].to_list() == pytest.approx([2.5 / 4.25, 1.75 / 4.25])
    assert clause_weights(votes.drop("clauses"), Panel.from_votes(votes, ["a", "b"]), strength=0.5) is None


def test_a_good_student_breaks_ties_and_a_row_that_it_does_not_know_stays():
    votes, gold = panel_of(1000, 2, 0.7)
    sure = gold.with_columns(probs=pl.when(pl.col("gold") == "0").then([0.9, 0.1]).otherwise([0.1, 0.9])).drop("gold")
    alone = aggregate(votes, labels=["0", "1"])
    joined = aggregate(votes, labels=["0", "1"], predictions=sure.head(500))
    right = [(part["label"] == gold["gold"]).head(500).mean() for part in (alone, joined)]
    assert right[1] > right[0] + 0.1
    assert joined["label"][500:].to_list() == alone["label"][500:].to_list()
    with pytest.raises(DataError, match=r"missing column\(s\) \['probs'\]"):
        aggregate(votes, labels=["0", "1"], predictions=sure.drop("probs"))


def test_characters_are_voted_on_and_become_spans_again():
    # "red nike shoe": two of three families mark 4-8 as brand, one marks 0-8. Characters 4-7 have all, 0-3 a third.
    third = 1 / 3
    votes = [(third, [Span(4, 8, "brand")]), (third, [Span(4, 8, "brand")]), (third, [Span(0, 8, "brand")])]
    shares = mark_shares(votes)
    assert shares.bounds == [0, 4, 8] and shares.begins == pytest.approx([third, 2 * third])
    found = spans_of_marks(shares)
    assert found.spans == [Span(4, 8, "brand")]
    # Four characters at 2/3 for nothing, four at 1.
    assert found.confidence == pytest.approx((4 * 2 / 3 + 4) / 8)
    assert shares.support(Span(0, 8, "brand")) == pytest.approx((4 / 3 + 4) / 8)
    # Neighbours stay two where most who cover both begin anew there.
    apart = mark_shares([(0.5, [Span(0, 2, "a"), Span(2, 4, "a")]), (0.5, [Span(0, 2, "a"), Span(2, 4, "a")])])
    assert spans_of_marks(apart).spans == [Span(0, 2, "a"), Span(2, 4, "a")]
    assert spans_of_marks(mark_shares([(1.0, [])])) == ([], 1.0, False)


def test_a_family_has_one_share_of_spans_and_rows_without_votes_are_there():
    brand = [{"start": 0, "end": 3, "text": "sny", "type": "brand", "link": None}]
    votes = pl.DataFrame(
        {
            "row_id": ["1"] * 4 + ["2"],
            "teacher": ["a", "b", "c", "d", "a"],
            "family": ["f", "f", "g", "h", "f"],
            "spans": [brand, brand, [], [], None],
        }
    )
    # f marks it with a third of the weight; counting voters it would be a half.
    found = distill.aggregate(votes)
    assert found["spans"].to_list() == [[], None] and found["votes"].to_list() == [4, 0]


def test_the_text_that_most_agree_on_wins_else_the_medoid():
    agreed = [(0.25, "Running  Shoe"), (0.25, "running shoe"), (0.25, "running shoe"), (0.25, "shoe")]
    found = vote_texts(agreed)
    # Three of four are the same after normalisation.
    assert (found.text, found.share, found.tie) == ("running shoe", pytest.approx(3 / 4), False)
    # No majority: "a b c" is 1/3 from each of the others, which are 2/3 apart.
    found = vote_texts([(1 / 3, "a b x"), (1 / 3, "a b c"), (1 / 3, "y b c")])
    assert (found.text, found.share, found.tie) == ("a b c", pytest.approx(1 / 3), True)
    # By characters "abd" is 1/3 from "abc" and from "xbd", which are 2/3 apart.
    assert vote_texts([(0.3, "abc"), (0.3, "abd"), (0.4, "xbd")], unit="characters").text == "abd"


def test_dependence_by_label_and_the_family_to_add_next():
    random = np.random.default_rng(4)
    truth = random.integers(0, 2, 1500)
    common = random.random(1500) > 0.75

    def voter(shared, accuracy=0.75):
        wrong = np.where(random.random(1500) < shared, common, random.random(1500) > accuracy)
        return np.where(wrong, 1 - truth, truth)

    given = {"a": voter(0.6), "b": voter(0.6), "c": voter(0.6), "same": voter(0.6), "other": voter(0.0)}
    votes = pl.concat(
        pl.DataFrame({"row_id": [str(row) for row in range(1500)], "label": label.astype(str)}).with_columns(
            teacher=pl.lit(name)
        )
        for name, label in given.items()
    )
    gold = pl.DataFrame({"row_id": [str(row) for row in range(1500)], "gold": truth.astype(str)})
    advice = next_family(votes, labels=["0", "1"], candidates=["same", "other"])
    gain = dict(advice.select("family", "n_eff_gain").iter_rows())
    assert gain["other"] > gain["same"] and set(advice["family"]) == {"same", "other"}
    by_label = dependence_by_label(votes, labels=["0", "1", "2"], gold=gold)
    assert by_label["n_eff"][2] is None and by_label["rows"].sum() == 1500
    assert by_label["between"][:2].is_between(0.1, 0.5).all()


def test_a_family_that_copies_another_is_no_gain_however_much_it_agrees():
    random = np.random.default_rng(11)
    truth = random.integers(0, 2, 2000)

    def voter(accuracy):
        return np.where(random.random(2000) < accuracy, truth, 1 - truth)

    given = {"a": voter(0.85), "b": voter(0.75), "c": voter(0.75)}
    given |= {"copy": given["a"], "fresh": voter(0.72)}
    votes = pl.concat(
        pl.DataFrame({"row_id": [str(row) for row in range(2000)], "label": label.astype(str)}).with_columns(
            teacher=pl.lit(name)
        )
        for name, label in given.items()
    )
    advice = {
        line["family"]: line
        for line in next_family(votes, labels=["0", "1"], candidates=["copy", "fresh"]).iter_rows(named=True)
    }
    # The copy errs with a (1) and is not seen to with b and c, so that it agrees as a does with those two:
    # 0.85 * 0.75 + 0.15 * 0.25 = 0.675; taken with a it would be (1 + 2 * 0.675) / 3 = 0.78.
    # 4 * sqrt(0.22 / 4000) = 0.03.
    assert advice["copy"]["agreement"] == pytest.approx(0.675, abs=0.03)
    assert advice["copy"]["n_eff_gain"] < 0.3 < advice["fresh"]["n_eff_gain"]
    assert advice["fresh"]["expected_gain"] > max(advice["copy"]["expected_gain"], 0)
