"""Answers of one kind, by row: read from votes, labels or predictions, compared, and put as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from distill.labeling.answers.locating import folded
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task

NONE = "none"


@dataclass(frozen=True)
class PartAnswers:
    """What one predictor says of one part of a task.

    Attributes:
        values: By row id: ``str`` for a label or text, ``list[str]`` for labels (the surest first, where that is known)
            and texts, ``list[SpanAnswer]`` for spans. Rows without an answer are not in it.
        confidence: By row id, where it is stated.
    """

    values: Mapping[str, Any]
    confidence: Mapping[str, float] = field(default_factory=dict)


def part_answers(table: pl.DataFrame, single: Task) -> PartAnswers:
    """Answers to one part of a task.

    Args:
        table: Votes of one teacher, merged labels, or predictions. Of repeated samples the first counts.
        single: The part, or the task where it has none.
    """
    column = single.answer_column
    own = table.filter(pl.col(column).is_not_null())
    if single.part is not None:
        own = own.filter(pl.col("part") == single.part)
    if "sample" in own.columns:
        own = own.sort("sample", maintain_order=True).unique("row_id", keep="first", maintain_order=True)
    support = pl.col("support") if "support" in own.columns else pl.lit(None).alias("support")
    sure = pl.col("confidence") if "confidence" in own.columns else pl.lit(None).alias("confidence")
    values: dict[str, Any] = {}
    confidence: dict[str, float] = {}
    for row_id, answer, weights, stated in own.select("row_id", column, support, sure).iter_rows():
        values[str(row_id)] = _value(answer, column, weights)
        if stated is not None:
            confidence[str(row_id)] = stated
    return PartAnswers(values, confidence)


def gold_answers(rows: pl.DataFrame, task: Task, single: Task) -> PartAnswers:
    """What the gold column of the rows table says of one part; rows of which it says nothing are not in it."""
    values: dict[str, Any] = {}
    for row_id, cell in rows.filter(pl.col("gold").is_not_null()).select("row_id", "gold").iter_rows():
        value = task.parse_gold(cell)
        value = value.get(single.part) if task.parts else value
        if value is not None:
            values[str(row_id)] = value
    return PartAnswers(values)


def same_answer(single: Task, one: Any, other: Any) -> float:
    """How far two answers are the same, from 0 to 1: texts by form, spans by place and type, labels as sets.

    Of ranked lists, the share of texts that both have among those that either has (Jaccard); of the others, 0 or 1.
    """
    if single.answer_column in ("label", "text"):
        return float(folded(one) == folded(other))
    if single.answer_column == "spans":
        return float(_places(one) == _places(other))
    left, right = set(map(folded, one)), set(map(folded, other))
    if single.answer_column == "labels":
        return float(left == right)
    return len(left & right) / len(left | right) if left | right else 1.0


def answered_right(single: Task, said: Any, truth: Any) -> float:
    """How far an answer is right as a student's confidence means it, from 0 to 1.

    Of a ranked list that is the share of its texts that the truth has; of the others as :func:`same_answer`.
    """
    if single.answer_column != "texts":
        return same_answer(single, said, truth)
    given, known = set(map(folded, said)), set(map(folded, truth))
    return len(given & known) / len(given) if given else float(not known)


def answer_text(answer: Any) -> str:
    """An answer for a reader: ``Nike → Nike Inc.``, ``A > B | C``; ``none`` for an empty list."""
    if answer is None:
        return "–"
    if isinstance(answer, str):
        return answer
    said = [_span_text(one) if isinstance(one, SpanAnswer) else str(one) for one in answer]
    return " | ".join(said) or NONE


def _span_text(span: SpanAnswer) -> str:
    named = span.link if span.link and folded(span.link) != folded(span.text) else None
    return f"{span.text} → {named}" if named else span.text


def _places(spans: Sequence[SpanAnswer]) -> set[tuple[int, int, str]]:
    return {(span.start, span.end, span.type) for span in spans}


def _value(answer: Any, column: str, weights: Sequence[float] | None) -> Any:
    if column == "spans":
        return [SpanAnswer(**{name: span.get(name) for name in SpanAnswer._fields}) for span in answer]
    if column == "labels" and weights is not None and len(weights) == len(answer):
        ranked = sorted(zip(answer, weights, strict=True), key=lambda pair: -pair[1])
        return [label for label, _ in ranked]
    return answer
