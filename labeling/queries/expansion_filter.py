"""Expansions that retrieve something else than their query, taken out of the votes before they are merged."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import polars as pl

from distill.labeling.queries.catalogue import Catalogue
from distill.labeling.queries.query_checks import check_expansions
from distill.labeling.task import Task


class Filtered(NamedTuple):
    """Votes without what failed.

    Attributes:
        votes: As given, with lists shortened; a list of which nothing is left says nothing (null).
        counts: By teacher: how many expansions it gave, and how many were left out for each reason.
    """

    votes: pl.DataFrame
    counts: dict[str, dict[str, int]]

    def said(self) -> str:
        """In a clause: how many were left out, and why."""
        given = sum(own["given"] for own in self.counts.values())
        reasons: Counter[str] = Counter()
        for own in self.counts.values():
            reasons.update({reason: count for reason, count in own.items() if reason != "given"})
        if not reasons:
            return f"all {given:,} expansions passed their check"
        why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        return f"{reasons.total():,} of {given:,} expansions left out ({why})"


def without_failed_expansions(
    votes: pl.DataFrame, rows: pl.DataFrame, *, task: Task, catalogue: Catalogue, k: int = 10
) -> Filtered:
    """Checks every list of expansions by :func:`~distill.labeling.queries.query_checks.check_expansions`.

    What a list is checked against is the query as the same teacher corrected it, where the task asks that too: a
    misspelled query finds other products than what was meant.

    Args:
        votes: ``row_id``, ``teacher``, ``texts`` and, for several parts, ``part`` and ``text``.
        rows: ``row_id`` and the query.
        task: With a part, or of a type, that is ``expansion``.
        catalogue: Where to search.
        k: Depth of the lists of products that are compared.
    """
    expanding = next(single for single in task.singles if single.type == "expansion")
    queries = dict(rows.select("row_id", expanding.source).iter_rows())
    corrected: dict[tuple[Any, ...], str] = {}
    spelling = next((single.part for single in task.singles if single.type == "spelling"), None)
    sample = "sample" if "sample" in votes.columns else pl.lit(0).alias("sample")
    if spelling is not None:
        said = votes.filter((pl.col("part") == spelling) & pl.col("text").is_not_null())
        corrected = {tuple(key): text for *key, text in said.select("row_id", "teacher", sample, "text").iter_rows()}
    counts: dict[str, Counter[str]] = {}
    kept: list[list[str] | None] = []
    own = pl.lit(True) if expanding.part is None else pl.col("part") == expanding.part
    table = votes.select("row_id", "teacher", sample, "texts", own.alias("own"))
    for row_id, teacher, number, texts, expands in table.iter_rows():
        if not expands or not texts:
            kept.append(texts)
            continue
        tally = counts.setdefault(str(teacher), Counter(given=0))
        query = corrected.get((row_id, teacher, number)) or queries[row_id]
        checks = check_expansions(catalogue, query, texts, k=k)
        tally["given"] += len(checks)
        tally.update(check.reason for check in checks if not check.kept)
        kept.append([check.expansion for check in checks if check.kept] or None)
    filtered = votes.with_columns(pl.Series("texts", kept, dtype=pl.List(pl.String())))
    return Filtered(filtered, {teacher: dict(tally) for teacher, tally in counts.items()})
