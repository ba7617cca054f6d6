"""What versions of a guideline changed, and which votes rest on earlier ones."""

from __future__ import annotations

import pytest

from distill.eval.guideline.history import clause_changes, guideline_history
from distill.labeling.guideline import Guideline
from distill.labeling.vote import Vote, votes_frame

OLD = Guideline.parse(
    "version: 1\n\nJudge.\n\n- **E1 Kind.** The kind holds.\n- **E2 Size.** As you see fit.\n- **E3 X.** Y."
)
NEW = Guideline.parse(
    "version: 2\n\nJudge.\n\n- **E1 Kind.** The\n  kind holds.\n- **E2 Size.** It fails.\n- **S1 Off.** One fails."
)


def vote(row, version, clauses, cost):
    return Vote(row, "a", "a", "labeled", label="exact", guideline_version=version, clauses=clauses, cost_usd=cost)


def test_clauses_are_compared_by_their_words():
    assert [(change.id, change.kind) for change in clause_changes(OLD, NEW)] == [
        ("E2", "changed"),
        ("S1", "added"),
        ("E3", "removed"),
    ]
    assert clause_changes(OLD, OLD) == []


def test_votes_of_earlier_versions_are_stale_and_some_rest_on_what_changed():
    """Two of version 1, of which r0 cites the changed E2; one of 2; one of a version that nobody gave."""
    votes = votes_frame(
        [
            vote("r0", "1", ["E2"], 0.5),
            vote("r1", "1", ["E1"], 0.25),
            vote("r2", "2", ["E2"], 0.5),
            vote("r3", "0", ["E2"], 0.5),
            Vote("r4", "a", "a", "failed", guideline_version="1"),
            vote("r5", None, None, None),
        ]
    )
    found = guideline_history(votes, [OLD, NEW])
    assert (found.votes, found.current, found.stale, found.unknown) == (4, 1, 2, 1)
    assert (found.touched, found.touched_rows) == (1, 1)
    assert (found.touched_usd, found.stale_usd) == (0.5, 0.75)
    (step,) = found.steps
    assert (step.old, step.new, step.around, found.note) == ("1", "2", False, "")


def test_text_around_the_clauses_counts_as_such():
    after = Guideline.parse(OLD.text.replace("Judge.", "Judge with care."))
    (step,) = guideline_history(votes_frame([]), [OLD, after]).steps
    assert (step.changes, step.around) == ([], True)
    assert step.growth == pytest.approx(len(" with care") / len(OLD.text))


def test_two_texts_of_one_version_cannot_be_told_apart():
    found = guideline_history(votes_frame([vote("r0", "1", ["E2"], None)]), [OLD, OLD.with_clause("E2", "It fails.")])
    assert (found.current, found.stale, found.stale_usd) == (1, 0, None)
    assert "a version of its own" in found.note
