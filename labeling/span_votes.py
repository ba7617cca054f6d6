r"""Spans merged by a vote of families on every character, and made into spans again.

Each voter marks every character with the label of its span, or with nothing; a family is heard once, as the mean of
its teachers. A character gets the label with the greatest share (nothing wins ties). A run of characters with one label
becomes a span; it is cut where more than half of the weight behind the label begins a new span there, so that two names
that stand next to each other stay two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import polars as pl

from distill.labeling.errors import DataError

SPAN_DTYPE = pl.Struct({"start": pl.Int64(), "end": pl.Int64(), "label": pl.String()})
"""One span: characters ``start`` to ``end`` (exclusive) of the text, and what they are."""
_EPSILON = 1e-9


class Span(NamedTuple):
    """Characters ``start`` to ``end`` (exclusive), and what they are."""

    start: int
    end: int
    label: str


def merge_spans(votes: pl.DataFrame) -> pl.DataFrame:
    """Merges votes whose answer is a list of spans.

    Args:
        votes: ``row_id``, ``teacher``, ``spans`` (lists of :data:`SPAN_DTYPE`; empty for "there is none", null for no
            vote), and ``family`` where known.

    Returns:
        ``row_id``, ``spans``, ``confidence`` (mean share of the merged mark over the characters that any voter
        marked; 1 where all mark nothing, 0 without a vote) and ``votes``; a line a row, in order of appearance.

    Raises:
        DataError: A column is missing, or a span is empty or starts before 0.
    """
    missing = [name for name in ("row_id", "teacher", "spans") if name not in votes.columns]
    if missing:
        raise DataError(f"votes: missing column(s) {missing}, got {votes.columns}; give row_id, teacher and spans")
    family = pl.coalesce([*(["family"] if "family" in votes.columns else []), "teacher"]).cast(pl.String)
    tidy = votes.select(pl.col("row_id").cast(pl.String), family.alias("family"), "spans")
    lines = []
    for (row_id,), part in tidy.group_by("row_id", maintain_order=True):
        heard = part.drop_nulls("spans")
        weighed = _weighed(
            [(name, _spans(row_id, given)) for name, given in heard.select("family", "spans").iter_rows()]
        )
        spans, confidence = vote_spans(weighed)
        lines.append((row_id, [span._asdict() for span in spans] if len(heard) else None, confidence, len(heard)))
    schema = {"row_id": pl.String(), "spans": pl.List(SPAN_DTYPE), "confidence": pl.Float64(), "votes": pl.Int32()}
    return pl.DataFrame(lines, schema=schema, orient="row")


def vote_spans(votes: Sequence[tuple[float, Sequence[Span]]]) -> tuple[list[Span], float]:
    """The merged spans of one row, and how sure the vote is of its marks.

    Args:
        votes: Weight and spans of each voter; weights sum to one. Overlapping spans of one voter: the later one counts.
    """
    if not votes:
        return [], 0.0
    found = spans_of_marks(mark_shares(votes))
    return found.spans, found.confidence


class MarkShares(NamedTuple):
    """What voters mark, by stretches of characters within which no span begins or ends: all of one is marked alike.

    Attributes:
        bounds: Where stretches begin, ascending, and where the last one ends.
        marks: Weight behind each mark of each stretch (None: nothing).
        begins: Weight behind a span that begins with the stretch.
    """

    bounds: list[int]
    marks: list[dict[str | None, float]]
    begins: list[float]

    def support(self, span: Span) -> float:
        """Mean weight behind the label of a span, over its characters."""
        shares: list[float] = []
        for (start, end), marks in zip(pairwise(self.bounds), self.marks, strict=True):
            if span.start <= start and end <= span.end:
                shares += [marks.get(span.label, 0.0)] * (end - start)
        return sum(shares) / (span.end - span.start)


class MergedSpans(NamedTuple):
    """Merged spans, how sure the vote is of its marks, and whether a character had two marks as likely."""

    spans: list[Span]
    confidence: float
    tie: bool


def mark_shares(votes: Sequence[tuple[float, Sequence[Span]]]) -> MarkShares:
    """Adds up what voters mark, up to the last character that any of them marks; see :func:`vote_spans`."""
    ends = {place for _, spans in votes for span in spans for place in (span.start, span.end)}
    bounds = sorted(ends | {0})
    place = {bound: number for number, bound in enumerate(bounds)}
    marks: list[dict[str | None, float]] = [{None: 0.0} for _ in bounds[1:]]
    begins = [0.0] * len(marks)
    for weight, spans in votes:
        given: list[str | None] = [None] * len(marks)
        for span in spans:
            first, last = place[span.start], place[span.end]
            given[first:last] = [span.label] * (last - first)
            begins[first] += weight
        for shares, mark in zip(marks, given, strict=True):
            shares[mark] = shares.get(mark, 0.0) + weight
    return MarkShares(bounds, marks, begins)


def spans_of_marks(shares: MarkShares) -> MergedSpans:
    """Makes spans of the marks that most weight is behind."""
    winners = [max(marks, key=lambda mark: (round(marks[mark], 9), mark is None, mark or "")) for marks in shares.marks]
    lengths = [end - start for start, end in pairwise(shares.bounds)]
    marked: list[float] = []
    tie = False
    for length, marks, winner in zip(lengths, shares.marks, winners, strict=True):
        if marks[None] < 1 - _EPSILON:
            marked += [marks[winner]] * length
        tie = tie or sum(share >= marks[winner] - _EPSILON for share in marks.values()) > 1
    return MergedSpans(_runs(winners, shares), sum(marked) / len(marked) if marked else 1.0, tie)


def locate_spans(text: str, found: Mapping[str, Sequence[str]]) -> list[Span]:
    """Substrings by label as spans of a text: each at its first free place; lost ones are left out."""
    taken: list[Span] = []
    for label, parts in found.items():
        for part in parts:
            start = text.casefold().find(part.casefold()) if part else -1
            while start >= 0 and any(span.start < start + len(part) and start < span.end for span in taken):
                start = text.casefold().find(part.casefold(), start + 1)
            if start >= 0:
                taken.append(Span(start, start + len(part), label))
    return sorted(taken)


def _runs(winners: Sequence[str | None], shares: MarkShares) -> list[Span]:
    spans: list[Span] = []
    for place, label in enumerate(winners):
        if label is None:
            continue
        start, end = shares.bounds[place], shares.bounds[place + 1]
        goes_on = spans and spans[-1].end == start and spans[-1].label == label
        if goes_on and shares.begins[place] <= shares.marks[place][label] / 2 + _EPSILON:
            spans[-1] = spans[-1]._replace(end=end)
        else:
            spans.append(Span(start, end, label))
    return spans


def _weighed(votes: Sequence[tuple[str, list[Span]]]) -> list[tuple[float, list[Span]]]:
    """One share a family, even among its votes."""
    members: dict[str, int] = {}
    for family, _ in votes:
        members[family] = members.get(family, 0) + 1
    return [(1 / (len(members) * members[family]), spans) for family, spans in votes]


def _spans(row_id: object, given: Sequence[Mapping[str, object]]) -> list[Span]:
    spans = [Span(int(str(span["start"])), int(str(span["end"])), str(span["label"])) for span in given]
    wrong = next((span for span in spans if span.start < 0 or span.end <= span.start), None)
    if wrong is not None:
        raise DataError(
            f"votes: row {row_id!r} has the span {tuple(wrong)}; start must be at least 0 and end beyond it"
        )
    return spans
