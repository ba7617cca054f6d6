"""Label-free checks of what a teacher (or student) says of queries: by retrieval, by a round trip, between tasks.

None of them says that an answer is right. An answer that fails one is more often wrong than one that passes, which is
enough to drop it from training, to ask again, or to compare two teachers by the share that passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from distill.labeling.answers.locating import folded
from distill.labeling.errors import DataError
from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.catalogue import Catalogue, Hit
from distill.labeling.queries.category_vote import category_overlap

LEAST_EXACT_KEPT = 0.5
LEAST_OVERLAP = 0.1
LEAST_CATEGORY_OVERLAP = 0.5


class ExpansionCheck(NamedTuple):
    """What an expansion retrieves beside what its query does.

    Attributes:
        expansion: The text.
        kept: Whether it passes.
        exact_kept: Of the query's own exact products among the query's top k, the share in the expansion's; None where
            the query has none there.
        overlap: Share of the query's top k that is in the expansion's top k.
        category_overlap: :func:`~distill.labeling.queries.category_vote.category_overlap` of the two.
        reason: Why it is dropped: ``same``, ``finds nothing``, ``loses exact products``, ``drifts``; empty where kept.
    """

    expansion: str
    kept: bool
    exact_kept: float | None
    overlap: float
    category_overlap: float
    reason: str


def check_expansions(
    catalogue: Catalogue,
    query: str,
    expansions: Sequence[str],
    *,
    exact: Collection[str] = (),
    k: int = 10,
) -> list[ExpansionCheck]:
    """Drops expansions that retrieve something else than their query.

    With labels (a teacher's or people's), an expansion has to keep at least half of the query's exact products that
    stand among the query's own top k. Without, it drifts if its top k shares less than a tenth of the query's products
    *and* less than half of its categories: a synonym may well find other products, but of the same kind.

    Args:
        catalogue: Where to look.
        query: The query, as corrected.
        expansions: Candidates.
        exact: Ids of products labelled exact for the query.
        k: Depth of both lists.

    Returns:
        One check an expansion, in order.
    """
    own, *others = catalogue.search([query, *expansions], k=k)
    exact_found = {hit.product for hit in own if catalogue.product_ids[hit.product] in set(exact)}
    seen = {folded(query)}
    checks = []
    for text, hits in zip(expansions, others, strict=True):
        products = {hit.product for hit in hits}
        exact_kept = len(exact_found & products) / len(exact_found) if exact_found else None
        overlap = len(products & {hit.product for hit in own}) / len(own) if own else 0.0
        shared = category_overlap(_categories(catalogue, own), _categories(catalogue, hits))
        reason = _reason(folded(text) in seen, bool(hits), exact_kept, overlap, shared) if own else ""
        seen.add(folded(text))
        checks.append(ExpansionCheck(text, not reason, exact_kept, overlap, shared, reason))
    return checks


def _reason(same: bool, finds: bool, exact_kept: float | None, overlap: float, shared: float) -> str:
    if same:
        return "same"
    if not finds:
        return "finds nothing"
    if exact_kept is not None:
        return "loses exact products" if exact_kept < LEAST_EXACT_KEPT else ""
    return "drifts" if overlap < LEAST_OVERLAP and shared < LEAST_CATEGORY_OVERLAP else ""


def check_corrections(
    answers: pl.DataFrame,
    *,
    correct: Callable[[str], str] | None = None,
    categories: Callable[[str], Collection[str]] | None = None,
    brands: Mapping[str, Sequence[Span]] | None = None,
) -> pl.DataFrame:
    """Checks corrections against the other tasks and against themselves.

    Args:
        answers: ``query`` and ``correction``, a line a query.
        correct: Who corrected. A correction that is corrected again does not stand (``stands``): it was none, or the
            first was too timid.
        categories: Categories of a query, by any predictor or vote. A misspelled query means what its correction
            means: the two have to share a category (``same_category``).
        brands: Spans of brands by query. Their words have to be in the correction (``brands_stay``), case and spaces
            aside.

    Returns:
        ``answers`` with the columns ``changed``, ``stands``, ``same_category`` and ``brands_stay``: null where a check
        was not asked for or says nothing (the query was not changed, has no category, has no brand).

    Raises:
        DataError: A column is missing.
    """
    if missing := [name for name in ("query", "correction") if name not in answers.columns]:
        raise DataError(f"corrections: missing column(s) {missing}, got {answers.columns}; give query and correction")
    lines = []
    for query, correction in answers.select("query", "correction").iter_rows():
        changed = folded(query) != folded(correction)
        stands = same = stay = None
        if changed and correct is not None:
            stands = folded(correct(correction)) == folded(correction)
        if changed and categories is not None:
            before, after = set(categories(query)), set(categories(correction))
            same = bool(before & after) if before and after else None
        if changed and brands is not None and (spans := brands.get(query)):
            stay = all(_squeezed(query[span.start : span.end]) in _squeezed(correction) for span in spans)
        lines.append((changed, stands, same, stay))
    names = ("changed", "stands", "same_category", "brands_stay")
    return answers.hstack(pl.DataFrame(lines, schema=dict.fromkeys(names, pl.Boolean()), orient="row"))


def count_checks(checked: pl.DataFrame) -> pl.DataFrame:
    """How many answers each check passes.

    Args:
        checked: As :func:`check_corrections` gives it, or any table with Boolean columns.

    Returns:
        ``check``, ``passed``, ``failed``, ``silent`` (null) and ``share`` (passed of those that it speaks of; null
        where it speaks of none); a line a Boolean column, in order.
    """
    lines = []
    for name in (name for name, dtype in checked.schema.items() if dtype == pl.Boolean):
        column = checked[name]
        passed, silent = int(column.sum() or 0), column.null_count()
        spoken = len(column) - silent
        lines.append((name, passed, spoken - passed, silent, passed / spoken if spoken else None))
    schema = {"check": pl.String(), **dict.fromkeys(("passed", "failed", "silent"), pl.Int64()), "share": pl.Float64()}
    return pl.DataFrame(lines, schema=schema, orient="row")


def _categories(catalogue: Catalogue, hits: Sequence[Hit]) -> list[str]:
    return [catalogue.categories[hit.product] for hit in hits]


def _squeezed(text: str) -> str:
    return "".join(folded(text).split())
