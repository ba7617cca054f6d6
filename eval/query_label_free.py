"""What can be said of a predictor's answers without any label: whether its parts agree with each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import polars as pl

from distill.eval.query_answers import PartAnswers
from distill.eval.query_evaluation import Check, Settings, share_of
from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.category_vote import vote_categories
from distill.labeling.queries.query_checks import check_corrections, check_expansions
from distill.labeling.span_votes import Span

_SAID = {
    "brands_stay": "changed queries that keep their brands",
    "same_category": "changed queries that find the same category",
}


def spelling_checks(
    queries: Mapping[str, str],
    corrections: PartAnswers,
    *,
    brands: PartAnswers | None,
    catalogue: Catalogue | None,
    settings: Settings,
) -> list[Check]:
    """Checks corrections against the same predictor's brands, and by what query and correction retrieve.

    Args:
        queries: Text by row id.
        corrections: What it makes of them.
        brands: Its own brand spans; None where it has none.
        catalogue: Whose categories are compared; None without one.
        settings: Of the intervals.
    """
    said = {row_id: text for row_id, text in corrections.values.items() if row_id in queries}
    if not said or (brands is None and catalogue is None):
        return []
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
    return [
        Check(name=title, passed=share_of(passed, settings))
        for name, title in _SAID.items()
        if (passed := {row: float(ok) for row, ok in checked.select("row_id", name).iter_rows() if ok is not None})
    ]


def expansion_checks(
    queries: Mapping[str, str], expansions: PartAnswers, *, catalogue: Catalogue | None, settings: Settings
) -> list[Check]:
    """Share of expansions that find what their query finds, or products of the same categories."""
    if catalogue is None:
        return []
    passed = {}
    for row_id, texts in expansions.values.items():
        if row_id in queries and texts:
            checks = check_expansions(catalogue, queries[row_id], texts)
            passed[row_id] = sum(check.kept for check in checks) / len(checks)
    return [Check(name="expansions that pass retrieval", passed=share_of(passed, settings))] if passed else []
