r"""Votes whose answers are several labels, texts, ranked lists or spans, merged: each part of a task by its kind.

One share a family (``family_vote``) or one a teacher (``majority``), even among a teacher's samples; a stated
confidence scales a vote, and one that states none counts as sure as those that do are on average, wholly where none
does. Each kind has its rule: :mod:`~distill.labeling.several_votes`, :mod:`~distill.labeling.text_votes`,
:mod:`~distill.labeling.list_votes`, :mod:`~distill.labeling.span_votes`; one label goes through
:mod:`~distill.labeling.aggregate`.

The rule says how far the votes agree on the merged answer, :math:`p`. The confidence is that, drawn towards how often
two families say the same, :math:`\pi` (the usual kappa of panels where there are not two),

.. math:: confidence = (n_{eff} \, p + k \, \pi) / (n_{eff} + k)

with :math:`n_{eff}` and :math:`k` as there; how far errors hang together is assumed, since only a closed set shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import polars as pl

from distill.labeling.aggregate import LABEL_SCHEMA, MethodLike, merge
from distill.labeling.aggregate_config import merge_settings
from distill.labeling.dependence import USUAL_BETWEEN, USUAL_KAPPA
from distill.labeling.errors import DataError
from distill.labeling.list_votes import fuse_lists
from distill.labeling.locating import folded
from distill.labeling.several_votes import vote_several
from distill.labeling.span_votes import Span, mark_shares, spans_of_marks
from distill.labeling.spans import SPANS_DTYPE, SpanAnswer
from distill.labeling.task import Task
from distill.labeling.text_votes import vote_weighted_texts
from distill.labeling.traces import UNFIT

ANSWER_METHODS = ("family_vote", "majority", "auto")
"""Methods that merge answers of every kind; ``auto`` stands for ``family_vote`` there. Others need one label a row."""

_CANDIDATES_DTYPE = pl.List(pl.Struct({"text": pl.String(), "share": pl.Float64()}))
ANSWER_LABEL_SCHEMA: dict[str, pl.DataType] = {
    "row_id": pl.String(),
    "part": pl.String(),
    **{name: dtype for name, dtype in LABEL_SCHEMA.items() if name != "row_id"},
    "labels": pl.List(pl.String()),
    "text": pl.String(),
    "texts": pl.List(pl.String()),
    "spans": SPANS_DTYPE,
    "support": pl.List(pl.Float64()),
    "candidates": _CANDIDATES_DTYPE,
}
"""Columns of labels whose answer is no single label, beyond those of ``LABEL_SCHEMA``; a line a row and part.

``part``: of a task of several, else absent. ``labels``, ``text``, ``texts`` or ``spans``: the answer, by
:attr:`~distill.labeling.task.Task.answer_column`; an empty list says that there is none, null that nobody answered.
``support``: weight behind each label, text or span of the answer, in its order. ``candidates``: everything that was
named, with the weight behind it, the greatest first (labels, texts; null for spans). ``label`` and ``probs`` are null.
A table has the columns of its task alone.
"""

_SUPPORTED = ("labels", "texts", "spans")
_WITH_CANDIDATES = ("labels", "text", "texts")
_EPSILON = 1e-9


class AnswerMerging(NamedTuple):
    """Merged answers.

    Attributes:
        labels: A line a row, or a row and part; the columns of :data:`ANSWER_LABEL_SCHEMA` that the task has.
        methods: The method used, by part (None where the task has none).
        warning: As in :class:`~distill.labeling.aggregate.Merging`.
    """

    labels: pl.DataFrame
    methods: dict[str | None, str]
    warning: str | None


@dataclass(slots=True)
class _Voice:
    """A vote of a row: its weight, how sure it is, its answer, and where it stands in the table."""

    family: str
    weight: float
    sure: float
    answer: Any
    line: int


class _Outcome(NamedTuple):
    """What a rule makes of the voices of a row."""

    answer: Any
    agreement: float
    tie: bool
    support: list[float] | None = None
    candidates: list[tuple[str, float]] | None = None


_Rule = Callable[[Sequence[_Voice]], _Outcome]


def merge_answers(votes: pl.DataFrame, *, task: Task, method: MethodLike = "family_vote") -> AnswerMerging:
    """Merges votes on a task of any kind.

    Args:
        votes: ``row_id``, ``teacher``, the task's answer column and, for several parts, ``part``; where known,
            ``family``, ``sample``, ``outcome``, ``confidence``, ``trace``, ``trace_problems``, ``clauses``.
        task: What was asked.
        method: One of :data:`ANSWER_METHODS`; any for a part that is one label.

    Raises:
        DataError: A column is missing, the table is empty, or the method needs single labels.
    """
    if votes.is_empty():
        raise DataError("votes: the table is empty; label rows first")
    if task.parts and "part" not in votes.columns:
        raise DataError(f"votes: missing column 'part', got {votes.columns}; the task has several parts")
    tables, methods, warnings = [], {}, []
    for single in task.singles:
        own = votes if single.part is None else votes.filter(pl.col("part") == single.part)
        if single.closed:
            found = merge(own, labels=single.tree or single.labels, method=method, ordered=single.ordered)
            table, methods[single.part] = found.labels, found.method
            warnings += [found.warning] if found.warning else []
        else:
            table = _merge_open(own, task=single, method=method)
            methods[single.part] = _method(method)
        tables.append(table.with_columns(part=pl.lit(single.part, pl.String)))
    columns = _columns(task)
    whole = pl.concat(tables, how="diagonal")
    whole = whole.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in columns.items() if name not in whole.columns
    )
    order = votes.select(pl.col("row_id").cast(pl.String)).unique(maintain_order=True).with_row_index("_row")
    whole = whole.join(order, on="row_id", how="left", maintain_order="left").sort("_row", maintain_order=True)
    whole = whole.select(pl.col(name).cast(dtype) for name, dtype in columns.items())
    return AnswerMerging(whole, methods, "; ".join(warnings) or None)


def _columns(task: Task) -> dict[str, pl.DataType]:
    kept = {single.answer_column for single in task.singles}
    absent = {name for name in ("labels", "text", "texts", "spans") if name not in kept}
    absent |= set() if task.parts else {"part"}
    absent |= set() if kept & set(_SUPPORTED) else {"support"}
    absent |= set() if kept & set(_WITH_CANDIDATES) else {"candidates"}
    return {name: dtype for name, dtype in ANSWER_LABEL_SCHEMA.items() if name not in absent}


def _method(method: MethodLike) -> str:
    name = str(merge_settings(method).type)
    if name not in ANSWER_METHODS:
        raise DataError(
            f"aggregate.type: got {name}, which merges one label a row; for this task give one of "
            f"{', '.join(ANSWER_METHODS)}"
        )
    return "family_vote" if name == "auto" else name


def _merge_open(votes: pl.DataFrame, *, task: Task, method: MethodLike) -> pl.DataFrame:
    column, by_family = task.answer_column, _method(method) == "family_vote"
    missing = [name for name in ("row_id", "teacher", column) if name not in votes.columns]
    if missing:
        raise DataError(f"votes: missing column(s) {missing}, got {votes.columns}")
    rows: dict[str, list[_Voice]] = {str(row_id): [] for row_id in votes["row_id"].unique(maintain_order=True)}
    for row_id, voice in _voices(votes, column):
        rows[row_id].append(voice)
    for voices in rows.values():
        _weigh(voices, votes["teacher"], by_family=by_family)
    rule, same = _rule_of(task, rows)
    prior = _mean_agreement(rows.values(), same)
    lines = []
    for row_id, voices in rows.items():
        line: dict[str, Any] = {"row_id": row_id, "confidence": 0.0, "n_eff": 0.0, "votes": len(voices), "tie": False}
        if voices:
            found = rule(voices)
            n_eff = _effective(voices)
            strength = (1 - USUAL_KAPPA) / (2 * USUAL_KAPPA)
            line |= {
                column: _stored(found.answer, column),
                "n_eff": n_eff,
                "tie": found.tie,
                "confidence": (n_eff * found.agreement + strength * prior) / (n_eff + strength),
                "support": found.support,
                "candidates": [{"text": text, "share": share} for text, share in found.candidates or ()] or None,
            }
            line |= _kept_trace(votes, [one for one in voices if same(one.answer, found.answer) == 1.0])
        lines.append(line)
    schema = {name: dtype for name, dtype in ANSWER_LABEL_SCHEMA.items() if name != "part"}
    return pl.DataFrame(lines, schema=schema)


def _voices(votes: pl.DataFrame, column: str) -> list[tuple[str, _Voice]]:
    counts = votes[column].is_not_null()
    if "outcome" in votes.columns:
        counts &= votes["outcome"] == "labeled"
    used = votes.with_row_index("_line").filter(counts)
    family = pl.coalesce([*(["family"] if "family" in votes.columns else []), "teacher"]).cast(pl.String)
    stated = pl.col("confidence") if "confidence" in votes.columns else pl.lit(None, pl.Float64)
    mean = used.select(stated.mean()).item() if len(used) else None
    sure = stated.fill_null(1.0 if mean is None else mean)
    found = used.select(pl.col("row_id").cast(pl.String), family.alias("family"), sure.alias("sure"), column, "_line")
    lines = []
    for row_id, name, certainty, answer, line in found.iter_rows():
        if column == "spans":
            answer = [SpanAnswer(**{field: span.get(field) for field in SpanAnswer._fields}) for span in answer]
        lines.append((row_id, _Voice(name, 0.0, float(certainty), answer, line)))
    return lines


def _weigh(voices: list[_Voice], teachers: pl.Series, *, by_family: bool) -> None:
    """One share a family, even among its teachers and their samples; or one a teacher."""
    names = [str(teachers[voice.line]) for voice in voices]
    samples = Counter(names)
    members: dict[str, set[str]] = {}
    for voice, name in zip(voices, names, strict=True):
        members.setdefault(voice.family if by_family else name, set()).add(name)
    for voice, name in zip(voices, names, strict=True):
        own = members[voice.family if by_family else name]
        voice.weight = 1 / (len(members) * len(own) * samples[name])


def _effective(voices: Sequence[_Voice]) -> float:
    """Kish's effective votes, as in :func:`~distill.labeling.aggregate.aggregate`."""
    shares: dict[str, float] = {}
    for voice in voices:
        shares[voice.family] = shares.get(voice.family, 0.0) + voice.weight
    return 1 / (USUAL_BETWEEN + (1 - USUAL_BETWEEN) * sum(share**2 for share in shares.values()))


def _mean_agreement(rows: Any, same: Callable[[Any, Any], float]) -> float:
    """How often two families say the same, over all rows and pairs; the usual kappa where there are no two."""
    total, pairs = 0.0, 0
    for voices in rows:
        first = {voice.family: voice.answer for voice in reversed(voices)}
        for one, other in combinations(first.values(), 2):
            total += same(one, other)
            pairs += 1
    return total / pairs if pairs else USUAL_KAPPA


def _rule_of(task: Task, rows: Mapping[str, Sequence[_Voice]]) -> tuple[_Rule, Callable[[Any, Any], float]]:
    """How a kind is merged, and how far two of its answers are the same, from 0 to 1."""
    if task.answer_column == "text":
        unit = "characters" if task.type == "spelling" else "tokens"
        return lambda voices: _merge_text(voices, unit=unit), lambda one, other: float(folded(one) == folded(other))
    if task.answer_column == "texts":
        return lambda voices: _merge_list(voices, most=task.most), _overlap
    if task.answer_column == "spans":
        return _merge_spans, lambda one, other: float(_marks(one) == _marks(other))
    named = Counter(label for voices in rows.values() for voice in voices for label in voice.answer)
    known = set(task.labels) if task.tree is None else set(task.labels) | set(task.tree.below)
    if unknown := [label for label in named if label not in known]:
        raise DataError(f"votes: {len(unknown)} label(s) are not in the set, such as {unknown[:5]}")
    frequency = {label: float(count) for label, count in named.items()}
    return (
        lambda voices: _merge_labels(voices, task=task, frequency=frequency),
        lambda one, other: float(set(one) == set(other)),
    )


def _merge_text(voices: Sequence[_Voice], *, unit: Any) -> _Outcome:
    found = vote_weighted_texts([(voice.weight * voice.sure, voice.answer) for voice in voices], unit=unit)
    return _Outcome(found.text, found.share, found.tie, candidates=found.candidates)


def _merge_list(voices: Sequence[_Voice], *, most: int) -> _Outcome:
    ranked = fuse_lists([(voice.weight * voice.sure, voice.answer) for voice in voices])
    kept = ranked[:most]
    nothing = sum(voice.weight * voice.sure for voice in voices if not voice.answer)
    if not ranked or nothing > 0.5 + _EPSILON:
        return _Outcome([], nothing, False, [], [(one.text, one.support) for one in ranked])
    return _Outcome(
        [one.text for one in kept],
        sum(one.support for one in kept) / len(kept),
        len(ranked) > 1 and abs(ranked[0].score - ranked[1].score) < 1e-12,
        [one.support for one in kept],
        [(one.text, one.support) for one in ranked],
    )


def _merge_labels(voices: Sequence[_Voice], *, task: Task, frequency: Mapping[str, float]) -> _Outcome:
    votes = [(voice.weight, voice.sure, voice.answer) for voice in voices]
    found = vote_several(votes, labels=task.labels, tree=task.tree, frequency=frequency)
    support = [found.marginals[label] for label in found.labels]
    return _Outcome(found.labels, found.agreement, found.tie, support, list(found.marginals.items()))


def _merge_spans(voices: Sequence[_Voice]) -> _Outcome:
    votes: list[tuple[float, Sequence[Span]]] = []
    for voice in voices:
        own = [Span(span.start, span.end, span.type) for span in voice.answer]
        votes.append((voice.weight * (voice.sure if own else 1.0), own))
        if own and voice.sure < 1:
            votes.append((voice.weight * (1 - voice.sure), []))
    shares = mark_shares(votes)
    found = spans_of_marks(shares)
    spans = [_with_text(span, voices) for span in found.spans]
    support = [
        sum(shares.marks[place].get(span.label, 0.0) for place in range(span.start, span.end)) / (span.end - span.start)
        for span in found.spans
    ]
    agreement = found.confidence
    if not any(voice.answer for voice in voices):
        agreement = sum(voice.weight * voice.sure for voice in voices)
    return _Outcome(spans, agreement, found.tie, support)


def _with_text(span: Span, voices: Sequence[_Voice]) -> SpanAnswer:
    """A merged span with its text, put together from the votes that cover it, and the link with most weight."""
    letters: dict[int, str] = {}
    links: dict[str, float] = {}
    for voice in voices:
        for own in voice.answer:
            letters |= {own.start + at: letter for at, letter in enumerate(own.text or "")}
            if own.link and own.type == span.label and own.start < span.end and span.start < own.end:
                links[own.link] = links.get(own.link, 0.0) + voice.weight * voice.sure
    text = "".join(letters.get(place, " ") for place in range(span.start, span.end))
    link = min(links, key=lambda name: (-round(links[name], 9), name)) if links else None
    return SpanAnswer(span.start, span.end, text, span.label, link)


def _overlap(one: Sequence[str], other: Sequence[str]) -> float:
    left, right = set(map(folded, one)), set(map(folded, other))
    return len(left & right) / len(left | right) if left | right else 1.0


def _marks(spans: Sequence[SpanAnswer]) -> set[tuple[int, int, str]]:
    return {(span.start, span.end, span.type) for span in spans}


def _stored(answer: Any, column: str) -> Any:
    return [span._asdict() for span in answer] if column == "spans" else answer


def _kept_trace(votes: pl.DataFrame, agreeing: Sequence[_Voice]) -> dict[str, Any]:
    """Trace, its teacher and clauses of the surest vote that gives the merged answer; as with single labels."""
    ranked = sorted(agreeing, key=lambda voice: (bool(_cell(votes, "trace_problems", voice)), -voice.sure, voice.line))
    able = [voice for voice in ranked if not UNFIT & set(_cell(votes, "trace_problems", voice) or ())]
    told = next((voice for voice in able if _cell(votes, "trace", voice)), None)
    cited = told or next((voice for voice in ranked if _cell(votes, "clauses", voice)), None)
    return {
        "trace": _cell(votes, "trace", told) if told else None,
        "trace_teacher": votes["teacher"][told.line] if told else None,
        "clauses": _cell(votes, "clauses", cited) if cited else None,
    }


def _cell(votes: pl.DataFrame, name: str, voice: _Voice) -> Any:
    if name not in votes.columns:
        return None
    value = votes[name][voice.line]
    return value.to_list() if isinstance(value, pl.Series) else value


def task_of_votes(votes: pl.DataFrame, *, labels: Sequence[str] | None = None) -> Task | None:
    """A task that votes can be merged by, made from what they hold; None where they are single labels.

    Args:
        votes: As for :func:`merge_answers`.
        labels: The label set of answers that are labels; by default those that occur.
    """
    columns = [name for name in ("labels", "text", "texts", "spans") if name in votes.columns]
    if not any(votes[name].is_not_null().any() for name in columns):
        return None
    if "part" not in votes.columns or votes["part"].is_null().all():
        return _task_of(votes, labels, part=None)
    parts = votes["part"].drop_nulls().unique(maintain_order=True)
    own = tuple(_task_of(votes.filter(pl.col("part") == part), labels, part=part) for part in parts)
    return Task(labels=(), inputs=("query",), kind="parts", parts=own)


def _task_of(votes: pl.DataFrame, labels: Sequence[str] | None, *, part: str | None) -> Task:
    held = [
        name
        for name in ("labels", "text", "texts", "spans")
        if name in votes.columns and votes[name].is_not_null().any()
    ]
    if len(held) > 1:
        raise DataError(f"votes: answers stand in {held} at once; give the task, or one kind of answer for each part")
    column = held[0] if held else "label"
    kind: Any = {"text": "text", "texts": "text", "spans": "spans"}.get(column, "choice")
    found: Sequence[str] = ()
    if kind == "choice":
        seen = votes[column].explode() if column == "labels" else votes[column]
        found = labels or sorted(seen.drop_nulls().unique().to_list())
    several, longest = column in ("labels", "texts"), 1
    if several:
        longest = max(votes[column].list.len().drop_nulls().to_list() or [1])
    return Task(labels=tuple(found), inputs=("query",), kind=kind, several=several, most=max(longest, 1), part=part)
