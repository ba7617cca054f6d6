r"""Spans merged by a vote of families on every character, and made into spans again.

Each voter marks every character with the label of its span, or with nothing; a family is heard once, as the mean of
its teachers. A character gets the label with the greatest share (nothing wins ties). A run of characters with one label
becomes a span; it is cut where more than half of the weight behind the label begins a new span there, so that two names
that stand next to each other stay two.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_EPSILON = 1e-9


class Span(NamedTuple):
    """Characters ``start`` to ``end`` (exclusive), and what they are."""

    start: int
    end: int
    label: str


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
    """Adds up what voters mark, up to the last character that any of them marks.

    Args:
        votes: Weight and spans of each voter; weights sum to one. Overlapping spans of one voter: the later one counts.
    """
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
