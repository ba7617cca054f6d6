"""Votes merged into labels; expected numbers are derived by hand in comments."""

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.labeling.errors import DataError
from distill.labeling.merging.aggregate import LABEL_SCHEMA, METHODS, Merged, aggregate
from distill.labeling.merging.dependence import PanelDependence, panel_dependence
from distill.labeling.vote import OUTCOMES, Vote, votes_frame

pytestmark = pytest.mark.filterwarnings("ignore::distill.labeling.merging.merge_choice.PanelDependenceWarning")

ABC = ("a", "b", "c")
COUNTING = ("majority", "family_vote")
"""Methods whose `probs` are shares of the votes."""


def table(*votes, **columns):
    """Votes as (row_id, teacher, label) or, with a family, (row_id, teacher, family, label)."""
    names = ("row_id", "teacher", "family", "label") if len(votes[0]) == 4 else ("row_id", "teacher", "label")
    return pl.DataFrame(votes, schema=names, orient="row").with_columns(**columns)


def assumed(between, kappa):
    """A panel whose dependence is known, so that the formulas can be followed by hand."""
    return PanelDependence(0, 0, 0.0, between, None, kappa, "assumed", pl.DataFrame())


def only(labels):
    (row,) = labels.to_dicts()
    return row


def test_majority_is_one_vote_a_teacher():
    labels = aggregate(
        table(("1", "x", "f", "a"), ("1", "y", "f", "a"), ("1", "z", "g", "b")), labels=ABC, method="majority"
    )
    row = only(labels)
    assert dict(labels.schema) == LABEL_SCHEMA
    assert row["label"] == "a" and row["votes"] == 3 and not row["tie"]
    assert row["probs"] == pytest.approx([2 / 3, 1 / 3, 0])


def test_family_vote_is_one_share_a_family():
    # Family f says a twice and b once: (2/3, 1/3, 0). Family g says b: (0, 1, 0). Their mean is (1/3, 2/3, 0).
    votes = [("1", "x", "f", "a"), ("1", "y", "f", "a"), ("1", "w", "f", "b"), ("1", "z", "g", "b")]
    row = only(aggregate(table(*votes), labels=ABC))
    assert row["label"] == "b" and row["votes"] == 4
    assert row["probs"] == pytest.approx([1 / 3, 2 / 3, 0])


def test_samples_of_a_teacher_become_one_opinion_first():
    votes = table(("1", "x", "a"), ("1", "x", "a"), ("1", "x", "b"), ("1", "y", "b"))
    # x: (2/3, 1/3, 0), y: (0, 1, 0). Counting four votes would give a tie.
    for method in COUNTING:
        row = only(aggregate(votes, labels=ABC, method=method))
        assert row["label"] == "b" and row["probs"] == pytest.approx([1 / 3, 2 / 3, 0]) and row["votes"] == 4


def test_stated_distributions_are_averaged_and_rounding_is_evened_out():
    votes = table(("1", "x", "a"), ("1", "y", "b"), probs=pl.Series([[0.5, 0.3, 0.2], [0.1, 0.49, 0.4]]))
    # 0.1 + 0.49 + 0.4 = 0.99, so y counts as (0.1, 0.49, 0.4) / 0.99.
    wanted = [(0.5 + 0.1 / 0.99) / 2, (0.3 + 0.49 / 0.99) / 2, (0.2 + 0.4 / 0.99) / 2]
    row = only(aggregate(votes, labels=ABC))
    assert row["probs"] == pytest.approx(wanted) and row["label"] == "b"


def test_a_bare_label_does_not_outvote_teachers_that_say_how_sure_they_are():
    # Taken for certain, z alone would give b 1.0 + 2 * 0.35 = 1.7 against 1.2 for a. The stated votes are 0.6 sure on
    # average, so z counts as (0.2, 0.6, 0.2): a has 1.2 + 0.2 = 1.4, b has 0.7 + 0.6 = 1.3, c has 0.1 + 0.2 = 0.3.
    stated = [[0.6, 0.35, 0.05], [0.6, 0.35, 0.05], None]
    votes = table(("1", "x", "a"), ("1", "y", "a"), ("1", "z", "b"), probs=pl.Series(stated, dtype=pl.List(pl.Float64)))
    row = only(aggregate(votes, labels=ABC))
    assert row["label"] == "a" and row["probs"] == pytest.approx([1.4 / 3, 1.3 / 3, 0.3 / 3])


def test_a_bare_label_takes_the_usual_distribution_of_its_label_where_enough_state_one():
    rows = [(str(index), "x", "a") for index in range(20)] + [("20", "y", "a"), ("21", "y", "b")]
    # Ten of 20 say (0.9, 0.1, 0), ten (0.7, 0.1, 0.2): a bare "a" counts as (0.8, 0.1, 0.1). None says b; on average
    # they are 0.8 sure, so a bare "b" counts as (0.1, 0.8, 0.1).
    stated = [[0.9, 0.1, 0.0], [0.7, 0.1, 0.2]] * 10 + [None, None]
    labels = aggregate(table(*rows, probs=pl.Series(stated, dtype=pl.List(pl.Float64))), labels=ABC)
    assert labels["probs"][20].to_list() == pytest.approx([0.8, 0.1, 0.1])
    assert labels["probs"][21].to_list() == pytest.approx([0.1, 0.8, 0.1])


def test_ties_are_said_and_broken_by_probability_then_by_order():
    votes = table(("1", "x", "b"), ("1", "y", "a"))
    for method in COUNTING:
        row = only(aggregate(votes, labels=ABC, method=method))
        assert row["tie"] and row["label"] == "a" and row["probs"] == pytest.approx([0.5, 0.5, 0])
    surer = votes.with_columns(probs=pl.Series([[0.0, 0.9, 0.1], [0.6, 0.4, 0.0]]))
    row = only(aggregate(surer, labels=ABC, method="majority"))
    assert row["tie"] and row["label"] == "b" and row["probs"] == pytest.approx([0.5, 0.5, 0])
    # Soft tie (0.4, 0.4, 0.2) between a and b; two of three teachers say b.
    soft = pl.Series([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.2, 0.6, 0.2]])
    row = only(aggregate(table(("1", "x", "a"), ("1", "y", "b"), ("1", "z", "b"), probs=soft), labels=ABC))
    assert row["tie"] and row["label"] == "b"


def test_a_tie_that_nothing_else_breaks_goes_to_the_label_that_is_more_frequent():
    # Row 1 is tied between a and b; over all rows b has 0.5 + 1 of two rows, a 0.5.
    votes = table(("1", "x", "a"), ("1", "y", "b"), ("2", "x", "b"), ("2", "y", "b"))
    for method in COUNTING:
        first = aggregate(votes, labels=ABC, method=method).row(0, named=True)
        assert first["tie"] and first["label"] == "b"


def test_effective_votes_follow_kish():
    votes = [("1", "x", "f", "a"), ("1", "y", "f", "a"), ("1", "z", "g", "a"), ("2", "x", "f", "a")]
    known = assumed(between=0.4, kappa=2 / 3)
    # Row 1, one share a family: F / (1 + (F - 1) rho) = 2 / 1.4. Row 2: one family is one vote.
    labels = aggregate(table(*votes), labels=ABC, dependence=known)
    assert labels["n_eff"].to_list() == pytest.approx([2 / 1.4, 1.0])
    # Majority weighs f 2/3 and g 1/3: 1 / (0.4 + 0.6 * 5/9) = 1 / (11/15).
    labels = aggregate(table(*votes), labels=ABC, method="majority", dependence=known)
    assert labels["n_eff"].to_list() == pytest.approx([15 / 11, 1.0])


def test_confidence_is_drawn_towards_how_frequent_the_label_is():
    votes = table(("1", "x", "a"), ("2", "x", "a"), ("3", "x", "a"), ("4", "x", "b"))
    # kappa 2/3 gives k = (1/3) / (4/3) = 1/4. a: (1 + 0.75 / 4) / 1.25 = 0.95; b: (1 + 0.25 / 4) / 1.25 = 0.85.
    labels = aggregate(votes, labels=ABC, dependence=assumed(between=0.4, kappa=2 / 3))
    assert labels["confidence"].to_list() == pytest.approx([0.95, 0.95, 0.95, 0.85])
    # Out of [0.2, 0.95] kappa is not believed: 0.2 gives k = 0.8 / 0.4 = 2, a: (1 + 2 * 0.75) / 3.
    labels = aggregate(votes, labels=ABC, dependence=assumed(between=0.4, kappa=-1.0))
    assert labels["confidence"][0] == pytest.approx(2.5 / 3)


def test_the_trace_kept_is_of_the_surest_agreeing_vote_that_has_one():
    votes = table(
        ("1", "x", "a"),
        ("1", "y", "a"),
        ("1", "z", "a"),
        ("1", "w", "b"),
        ("2", "x", "a"),
        ("2", "y", "a"),
        trace=pl.Series(["unsure", None, "sure", "wrong", "", None]),
        clauses=pl.Series([["E1"], ["E2"], ["E3"], ["S1"], [], ["E9"]]),
        probs=pl.Series(
            [[0.6, 0.4, 0.0], [1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.9, 0.1, 0.0], [0.5, 0.4, 0.1]]
        ),
    )
    first, second = aggregate(votes, labels=ABC).to_dicts()
    assert (first["trace"], first["trace_teacher"], first["clauses"]) == ("sure", "z", ["E3"])
    # Nobody explains row 2; the clauses of the vote that cites some are kept.
    assert (second["trace"], second["trace_teacher"], second["clauses"]) == (None, None, ["E9"])


def test_a_bare_vote_explains_only_where_no_vote_that_states_its_certainty_does():
    votes = table(
        ("1", "x", "a"), ("1", "y", "a"), trace=pl.Series(["bare", "stated"]), probs=pl.Series([None, [0.5, 0.4, 0.1]])
    )
    assert only(aggregate(votes, labels=ABC))["trace"] == "stated"


def test_rows_without_a_labeled_vote_are_there_and_empty():
    votes = [Vote("1", "x", "f", outcome="labeled", label="b")]
    votes += [Vote("2", "x", "f", outcome=outcome, reason="why") for outcome in OUTCOMES if outcome != "labeled"]
    labels = aggregate(votes_frame(votes), labels=ABC)
    assert labels["row_id"].to_list() == ["1", "2"]
    assert labels.row(1, named=True) == {
        "row_id": "2",
        "label": None,
        "probs": None,
        "confidence": 0.0,
        "n_eff": 0.0,
        "votes": 0,
        "tie": False,
        "trace": None,
        "trace_teacher": None,
        "clauses": None,
    }
    nothing = aggregate(votes_frame(votes[1:]), labels=ABC)
    assert nothing["label"].to_list() == [None] and dict(nothing.schema) == LABEL_SCHEMA


def test_a_label_beside_another_outcome_does_not_count():
    votes = table(("1", "x", "a"), ("1", "y", "b"), outcome=pl.Series(["invalid", "labeled"]))
    assert only(aggregate(votes, labels=ABC))["label"] == "b"


@pytest.mark.parametrize(
    ("votes", "says"),
    [
        (table(("1", "x", "a")).drop("teacher"), r"missing column\(s\) \['teacher'\]"),
        (table(("1", "x", "a")).clear(), "the table is empty"),
        (table(("1", "x", "z")), r"1 label\(s\) are not in the set, such as \['z'\]"),
        (table(("1", "x", "a"), probs=pl.Series([[0.5, 0.5]])), "has 2 values, there are 3 labels"),
        (table(("1", "x", "a"), probs=pl.Series([[0.5, 0.1, 0.1]])), "do not sum to 1"),
        (table(("1", "x", "a"), probs=pl.Series([[1.5, -0.5, 0.0]])), "do not sum to 1"),
        (table(("1", "x", "a"), probs=pl.Series([[None, 0.5, 0.5]])), "do not sum to 1"),
        (table(("1", "x", "f", "a"), ("2", "x", "g", "a")), "teacher 'x' stands under two families"),
    ],
)
def test_a_table_that_is_no_votes_is_refused(votes, says):
    with pytest.raises(DataError, match=says):
        aggregate(votes, labels=ABC)


def test_an_unknown_method_and_a_bad_label_set_are_refused():
    with pytest.raises(DataError, match="no method 'mean'; there are majority, family_vote, "):
        aggregate(table(("1", "x", "a")), labels=ABC, method="mean")
    for labels in (("a",), ("a", "a")):
        with pytest.raises(DataError, match="at least two different"):
            aggregate(table(("1", "x", "a")), labels=labels)


def test_numbers_as_labels_and_ids_are_read_as_text():
    row = only(aggregate(table((7, 1, 4), (7, 2, 4)), labels=("4", "3")))
    assert (row["row_id"], row["label"]) == ("7", "4")


def reference(votes, labels, method):
    """The two methods again, in loops over dicts."""
    merged = {}
    for row_id in dict.fromkeys(vote["row_id"] for vote in votes):
        of_row = [vote for vote in votes if vote["row_id"] == row_id]
        teachers = {}
        for vote in of_row:
            hard = [float(vote["label"] == label) for label in labels]
            teachers.setdefault((vote["family"], vote["teacher"]), []).append((vote["probs"], hard))
        means = {
            key: [[sum(column) / len(found) for column in zip(*part, strict=True)] for part in zip(*found, strict=True)]
            for key, found in teachers.items()
        }
        which = 0 if method == "family_vote" else 1
        groups = {}
        for (family, teacher), both in means.items():
            groups.setdefault(family if which == 0 else teacher, []).append(both[which])
        shares = [[sum(column) / len(part) for column in zip(*part, strict=True)] for part in groups.values()]
        probs = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
        second = [sum(both[1 - which][index] for both in means.values()) for index in range(len(labels))]
        merged[row_id] = (probs, second)
    often = [
        round(sum(column) / len(merged), 9) for column in zip(*(probs for probs, _ in merged.values()), strict=True)
    ]
    for row_id, (probs, second) in merged.items():
        tied = [index for index in range(len(labels)) if probs[index] >= max(probs) - 1e-9]
        still = [index for index in tied if second[index] >= max(second[one] for one in tied) - 1e-9]
        winner = max(still, key=lambda index: (often[index], -index))
        merged[row_id] = (labels[winner], probs, len(tied) > 1)
    return merged


@st.composite
def panels(draw):
    votes = []
    places = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2))
    for row, teacher, sample in draw(st.lists(places, min_size=1, max_size=25, unique=True)):
        parts = draw(st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any))
        probs = [part / sum(parts) for part in parts]
        vote = {"row_id": f"r{row}", "teacher": f"t{teacher}", "family": f"f{teacher % 3}", "sample": sample}
        votes.append(vote | {"probs": probs, "label": ABC[draw(st.integers(0, 2))]})
    return votes


@given(panels(), st.sampled_from(COUNTING))
def test_methods_equal_a_plain_reference(votes, method):
    labels = aggregate(pl.DataFrame(votes), labels=ABC, method=method)
    wanted = reference(votes, ABC, method)
    assert labels["row_id"].to_list() == list(wanted)
    for row in labels.to_dicts():
        label, probs, tie = wanted[row["row_id"]]
        assert row["probs"] == pytest.approx(probs)
        assert (row["label"], row["tie"]) == (label, tie)
        assert math.isclose(sum(row["probs"]), 1) and 0 <= row["confidence"] <= 1
        assert row["n_eff"] >= 1 - 1e-9 and row["n_eff"] <= 3 + 1e-9


@given(panels(), st.randoms())
def test_the_order_of_votes_changes_nothing_but_the_order_of_rows(votes, random):
    shuffled = list(votes)
    random.shuffle(shuffled)
    columns = ["row_id", "label", "probs", "confidence", "n_eff", "votes", "tie"]
    both = [aggregate(pl.DataFrame(part), labels=ABC).select(columns).sort("row_id") for part in (votes, shuffled)]
    for one, other in zip(both[0].to_dicts(), both[1].to_dicts(), strict=True):
        for name in ("probs", "confidence", "n_eff"):
            assert one.pop(name) == pytest.approx(other.pop(name))
        assert one == other


def test_another_method_needs_only_its_own_function(monkeypatch):
    def first_label(panel, settings) -> Merged:
        plain = METHODS["family_vote"](panel, settings)
        return Merged(plain.probs, plain.label * 0, plain.tie, plain.share)

    monkeypatch.setattr("distill.labeling.merging.aggregate.METHODS", {"majority": first_label})
    row = only(aggregate(table(("1", "x", "b")), labels=ABC, method="majority"))
    assert row["label"] == "a" and row["n_eff"] == 1


def test_a_dependence_measured_elsewhere_is_used():
    votes = table(("1", "x", "a"), ("1", "y", "a"))
    alone = aggregate(votes, labels=ABC, dependence=assumed(between=1.0, kappa=0.5))
    assert alone["n_eff"].to_list() == [1.0]
    assert aggregate(votes, labels=ABC)["n_eff"][0] == pytest.approx(panel_dependence(votes, labels=ABC).n_eff)
