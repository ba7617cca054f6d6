"""What can be said of a predictor's answers without any label.

Whether its parts agree with each other and with what a catalogue holds, how often it says what its teachers say, and
how often it expects to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import polars as pl

from distill.eval.label_free import LabelFreeEstimate
from distill.eval.queries.answers import PartAnswers, answered_right, same_answer
from distill.eval.queries.claims import Settings
from distill.eval.queries.evaluation import mean_of, share_of
from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.category_vote import vote_categories
from distill.labeling.queries.query_checks import check_corrections, check_expansions
from distill.labeling.task import Task

SetRightBy = Literal["teachers", "people"]
"""Whose answers a student's confidences were set right on: what it expects to agree with."""
_SAID = {
    "brands_stay": "changed queries that keep their brands",
    "same_category": "changed queries that find the same category",
}


def spelling_passes(
    queries: Mapping[str, str],
    corrections: PartAnswers,
    *,
    brands: PartAnswers | None,
    catalogue: Catalogue | None,
) -> dict[str, dict[str, float]]:
    """Checks corrections against the same predictor's brands, and by what query and correction retrieve.

    Args:
        queries: Text by row id.
        corrections: What it makes of them.
        brands: Its own brand spans; None where it has none.
        catalogue: Whose categories are compared; None without one.

    Returns:
        By check: 1 or 0 for each row that it speaks of.
    """
    said = {row_id: text for row_id, text in corrections.values.items() if row_id in queries}
    if not said or (brands is None and catalogue is None):
        return {}
    answers = pl.DataFrame(
        {"row_id": list(said), "query": [queries[row_id] for row_id in said], "correction": list(said.values())}
    )
    spans = None
    if brands is not None:
        spans = {
            queries[row_id]: [Span(span.start, span.end, span.type) for span in own]
            for row_id, own in brands.values.items()
            if row_id in queries
        }

    def categories(query: str) -> Collection[str]:
        assert catalogue is not None
        hits = catalogue.search([query], k=10)[0]
        return [one.category for one in vote_categories(catalogue, hits)]

    checked = check_corrections(answers, categories=categories if catalogue is not None else None, brands=spans)
    return {
        title: passed
        for name, title in _SAID.items()
        if (passed := {row: float(ok) for row, ok in checked.select("row_id", name).iter_rows() if ok is not None})
    }


def expansion_passes(
    queries: Mapping[str, str], expansions: PartAnswers, *, catalogue: Catalogue | None
) -> dict[str, dict[str, float]]:
    """Of each row's expansions, the share that find what their query finds, or products of the same categories."""
    if catalogue is None:
        return {}
    passed = {}
    for row_id, texts in expansions.values.items():
        if row_id in queries and texts:
            checks = check_expansions(catalogue, queries[row_id], texts)
            passed[row_id] = sum(check.kept for check in checks) / len(checks)
    return {"expansions that pass retrieval": passed} if passed else {}


def estimate_part(
    single: Task,
    said: PartAnswers,
    *,
    merged: PartAnswers | None,
    gold: PartAnswers,
    set_right_by: SetRightBy | None,
    settings: Settings,
) -> LabelFreeEstimate:
    """What is said of a student's answers to one part without any label on the rows.

    *Agreement* is how often it says what the merged labels say, of rows that it did not learn from. What it *expects*
    is the mean of its calibrated confidences (CBPE): to be right, where these were set right on people's answers, and
    else to say what the teachers would. The gap is that less how often it does, on the same rows, where the answers of
    whom it means are known; where its interval does not hold zero, the expectation is refuted.

    Args:
        single: The part.
        said: Its answers to the test rows, with confidences.
        merged: The merged answers; None without teachers.
        gold: True answers, as far as they are known.
        set_right_by: Whose answers its confidences were set right on; None where they were not.
        settings: Of the intervals.
    """
    notes: list[str] = []
    agreement = None
    if merged is not None and (same := agreeing(single, said, merged)):
        agreement = share_of(same, settings)
        notes.append("agreement reads above being right where the teachers err together")
    if set_right_by is None or not said.confidence:
        notes.append("no expectation: too few held-out rows to set its confidences right on")
        return LabelFreeEstimate(agreement=agreement, notes=tuple(notes))
    meant = "to be right" if set_right_by == "people" else "to say what the teachers would"
    notes.append(f"it expects {meant}: on such rows were its confidences set right")
    truth = gold if set_right_by == "people" else merged
    known = {} if truth is None else truth.values
    over = {
        row_id: sure - answered_right(single, said.values[row_id], known[row_id])
        for row_id, sure in said.confidence.items()
        if row_id in known and row_id in said.values
    }
    gap = mean_of(over, settings) if over else None
    believable = None if gap is None or gap.low is None or gap.high is None else gap.low <= 0.0 <= gap.high
    return LabelFreeEstimate(
        agreement=agreement,
        expected=share_of(said.confidence, settings),
        gap=gap,
        believable=believable,
        notes=tuple(notes),
    )


def agreeing(single: Task, one: PartAnswers, other: PartAnswers) -> dict[str, float]:
    """How far two say the same, by row id, of the rows that both answered."""
    return {
        row_id: same_answer(single, answer, other.values[row_id])
        for row_id, answer in one.values.items()
        if row_id in other.values
    }
