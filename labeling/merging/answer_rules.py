"""How answers of each kind are merged, and how far two of them are the same.

A rule compares answers by their *forms*, made once a vote: what is the same for answers that say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import polars as pl

from distill.labeling.answers.locating import folded
from distill.labeling.errors import DataError
from distill.labeling.merging.answer_votes import AnswerVotes, RowVotes
from distill.labeling.merging.list_votes import fuse_lists
from distill.labeling.merging.several_votes import LabelVote
from distill.labeling.merging.span_votes import Span, mark_shares, spans_of_marks
from distill.labeling.merging.text_votes import Unit, vote_texts
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task

_EPSILON = 1e-9
_TIED = 1e-12


class MergedAnswer(NamedTuple):
    """What a rule makes of the votes on a row.

    Attributes:
        answer: Of the kind of the votes.
        agreement: How far the votes agree on it, in [0, 1].
        tie: Whether another answer has as much behind it.
        support: Weight behind each of its items; None for a text.
        candidates: All that was named, with the weight behind it, the greatest first; None for spans.
    """

    answer: Any
    agreement: float
    tie: bool
    support: list[float] | None = None
    candidates: list[tuple[str, float]] | None = None


class AnswerRule(Protocol):
    """How a kind of answer is merged."""

    def form(self, answer: Any) -> Any:
        """What is equal for two answers just where they say the same."""

    def same(self, one: Any, other: Any) -> float:
        """How far two forms are the same, from 0 to 1; 1 just where they are equal."""

    def merge(self, votes: RowVotes) -> MergedAnswer:
        """Merges the votes on a row; there is at least one."""


def rule_of(task: Task, votes: AnswerVotes) -> AnswerRule:
    """The rule of a task's kind.

    Args:
        task: What was asked; not a single label.
        votes: All votes on it: how frequent a label is tells equals apart.

    Raises:
        DataError: A label is not in the set.
    """
    if task.answer_column == "text":
        return _TextRule("characters" if task.type == "spelling" else "tokens")
    if task.answer_column == "texts":
        return _ListRule(task.most)
    return _SpanRule() if task.answer_column == "spans" else _LabelRule(task, _frequency(task, votes))


def _frequency(task: Task, votes: AnswerVotes) -> dict[str, float]:
    named = votes.table.filter(pl.col("answer").list.len() > 0) if votes.table.height else votes.table
    counts = named.select(label="answer").explode("label").group_by("label", maintain_order=True).len()
    frequency = {label: float(count) for label, count in counts.iter_rows()}
    known = set(task.labels) if task.tree is None else set(task.labels) | set(task.tree.below)
    if unknown := [label for label in frequency if label not in known]:
        raise DataError(
            f"votes: {len(unknown)} label(s) are not in the set, such as {unknown[:5]}; map them to labels of the "
            "task, or leave those votes out"
        )
    return frequency


class _Equal:
    """Answers that are the same or not."""

    def same(self, one: Any, other: Any) -> float:
        return float(one == other)


class _TextRule(_Equal):
    def __init__(self, unit: Unit) -> None:
        self.unit = unit

    def form(self, answer: str) -> str:
        return folded(answer)

    def merge(self, votes: RowVotes) -> MergedAnswer:
        found = vote_texts(list(zip(votes.loud, votes.answers, strict=True)), unit=self.unit)
        return MergedAnswer(found.text, found.share, found.tie, candidates=found.candidates)


class _ListRule:
    def __init__(self, most: int) -> None:
        self.most = most

    def form(self, answer: Sequence[str]) -> frozenset[str]:
        return frozenset(map(folded, answer))

    def same(self, one: frozenset[str], other: frozenset[str]) -> float:
        """Jaccard's share."""
        return len(one & other) / len(one | other) if one or other else 1.0

    def merge(self, votes: RowVotes) -> MergedAnswer:
        loud = votes.loud
        ranked = fuse_lists(list(zip(loud, votes.answers, strict=True)))
        kept = ranked[: self.most]
        nothing = sum(weight for weight, answer in zip(loud, votes.answers, strict=True) if not answer)
        candidates = [(one.text, one.support) for one in ranked]
        if not ranked or nothing > 0.5 + _EPSILON:
            return MergedAnswer([], nothing, False, [], candidates)
        return MergedAnswer(
            [one.text for one in kept],
            sum(one.support for one in kept) / len(kept),
            len(ranked) > 1 and abs(ranked[0].score - ranked[1].score) < _TIED,
            [one.support for one in kept],
            candidates,
        )


class _LabelRule(_Equal):
    def __init__(self, task: Task, frequency: Mapping[str, float]) -> None:
        self.vote = LabelVote(task.labels, tree=task.tree, frequency=frequency)

    def form(self, answer: Sequence[str]) -> frozenset[str]:
        return frozenset(answer)

    def merge(self, votes: RowVotes) -> MergedAnswer:
        found = self.vote.merge(list(zip(votes.panel.weights, votes.sure, votes.answers, strict=True)))
        support = [found.marginals[label] for label in found.labels]
        return MergedAnswer(found.labels, found.agreement, found.tie, support, list(found.marginals.items()))


class _SpanRule(_Equal):
    def form(self, answer: Sequence[SpanAnswer]) -> frozenset[tuple[int, int, str]]:
        return frozenset((span.start, span.end, span.type) for span in answer)

    def merge(self, votes: RowVotes) -> MergedAnswer:
        weighed: list[tuple[float, Sequence[Span]]] = []
        for weight, sure, answer in zip(votes.panel.weights, votes.sure, votes.answers, strict=True):
            own = [Span(span.start, span.end, span.type) for span in answer]
            weighed.append((weight * (sure if own else 1.0), own))
            if own and sure < 1:
                weighed.append((weight * (1 - sure), []))
        shares = mark_shares(weighed)
        found = spans_of_marks(shares)
        spans = [_with_text(span, votes) for span in found.spans]
        agreement = found.confidence if any(votes.answers) else sum(votes.loud)
        return MergedAnswer(spans, agreement, found.tie, [shares.support(span) for span in found.spans])


def _with_text(span: Span, votes: RowVotes) -> SpanAnswer:
    """A merged span with its text, put together from the votes that cover it, and the link with most weight."""
    letters: dict[int, str] = {}
    links: dict[str, float] = {}
    for loud, answer in zip(votes.loud, votes.answers, strict=True):
        for own in answer:
            letters |= {own.start + at: letter for at, letter in enumerate(own.text or "")}
            if own.link and own.type == span.label and own.start < span.end and span.start < own.end:
                links[own.link] = links.get(own.link, 0.0) + loud
    text = "".join(letters.get(place, " ") for place in range(span.start, span.end))
    link = min(links, key=lambda name: (-round(links[name], 9), name)) if links else None
    return SpanAnswer(span.start, span.end, text, span.label, link)
