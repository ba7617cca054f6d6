"""Clauses read off the reasons of judges who cite none."""

from __future__ import annotations

import polars as pl
import pytest

from distill.eval.config import EvalConfig
from distill.eval.guideline.attributed_clauses import attribute_clauses, attribution_quality
from distill.eval.guideline.review import review
from distill.eval.scored import collapse_votes
from distill.labeling.vote import Vote, votes_frame


def said(*lines):
    votes = [
        Vote(row, judge, judge, "labeled", label="exact", trace=trace, clauses=own) for row, judge, trace, own in lines
    ]
    return collapse_votes(votes_frame(votes))


@pytest.fixture
def listing(make_rows):
    return make_rows([None, None], title=["Case for phone E4", "Running shoes"])


def test_a_number_names_a_clause_unless_it_stands_in_the_listing(listing, quickstart_task):
    table = said(("r000", "a", "E4 and E99", None), ("r001", "a", "E4 decides, then E3; an E4-like case", None))
    found = attribute_clauses(table, listing, guideline=quickstart_task.guideline).sort("row_id")
    assert found["clauses"].to_list() == [None, ["E4", "E3"]]
    assert found["attributed"].to_list() == [False, True]


def test_words_of_a_clause_name_it(listing, quickstart_task):
    words = "It is used together with what the query names and does not replace it."
    table = said(("r001", "a", words, None))
    found = attribute_clauses(table, listing, guideline=quickstart_task.guideline)
    assert found["clauses"][0][0] == "C1"


def test_who_cites_or_says_nothing_is_left_as_it_is(listing, quickstart_task):
    lines = [("r000", "a", "x", ["E1"]), ("r001", "a", "clause E4", None), ("r000", "b", None, None)]
    table = said(*lines)
    found = attribute_clauses(table, listing, guideline=quickstart_task.guideline)
    assert found.drop("attributed").equals(table)
    assert not found["attributed"].any()


def test_quality_counts_guesses_and_hits():
    guessed = {"r0": ["E1", "E2"], "r1": [], "r2": ["S1"]}
    cited = {"r0": ["E1"], "r1": ["E3"], "r2": ["S1", "E2"]}
    assert attribution_quality(guessed, cited) == (2, 3, 2, 4)


def test_three_of_four_attributed_clauses_of_careful_are_ones_that_it_cites(
    quickstart_rows, quickstart_votes, quickstart_task
):
    """77% on the queries that had no say in the threshold, see benchmarks/results/attributed_clauses.md."""
    own = collapse_votes(quickstart_votes).filter(pl.col("teacher") == "careful")
    bare = own.with_columns(clauses=pl.lit(None, pl.List(pl.String)))
    found = attribute_clauses(bare, quickstart_rows, guideline=quickstart_task.guideline)
    guesses = dict(found.filter("attributed").select("row_id", "clauses").iter_rows())
    rows, guessed, right, _ = attribution_quality(guesses, dict(own.select("row_id", "clauses").iter_rows()))
    assert rows > 0.15 * len(own)
    assert right > 0.7 * guessed


def test_the_review_marks_what_was_attributed(make_rows, quickstart_task):
    votes = votes_frame(
        Vote("r000", judge, judge, "labeled", label=label, trace=trace)
        for judge, label, trace in (("a", "exact", "By clause E4 it holds"), ("b", "substitute", "E4: it is not said"))
    )
    rows = make_rows([None], **{name: [""] for name in quickstart_task.inputs if name not in ("query", "title")})
    found = review(votes, rows, task=quickstart_task, config=EvalConfig(bootstrap=100))
    assert [(judge.citing, judge.attributed) for judge in found.judges] == [(0.0, 1.0), (0.0, 1.0)]
    assert (found.citable, found.uncovered.value) == (1, None)
    assert all(voice.attributed and voice.clauses == ["E4"] for voice in found.telling[0].said)
