r"""Votes whose answers are several labels, texts, ranked lists or spans, merged: each part of a task by its kind.

One share a family (``family_vote``) or one a teacher (``majority``), even among a teacher's samples; a stated
confidence scales a vote, and one that states none counts as sure as those that do are on average, wholly where none
does. Each kind has its rule: :mod:`~distill.labeling.merging.several_votes`,
:mod:`~distill.labeling.merging.text_votes`, :mod:`~distill.labeling.merging.list_votes`,
:mod:`~distill.labeling.merging.span_votes`; one label goes through :mod:`~distill.labeling.merging.aggregate`.

The rule says how far the votes agree on the merged answer, :math:`p`. The confidence is that, drawn towards how often
two families say the same, :math:`\pi` (the usual kappa of panels where there are not two),

.. math:: confidence = (n_{eff} \, p + k \, \pi) / (n_{eff} + k)

with :math:`n_{eff}` and :math:`k` as there; how far errors hang together is assumed, since only a closed set shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.list_columns import list_column
from distill.labeling.merging.aggregate import LABEL_SCHEMA, MethodLike, merge
from distill.labeling.merging.aggregate_config import merge_settings
from distill.labeling.merging.answer_rules import AnswerRule, MergedAnswer, rule_of
from distill.labeling.merging.answer_votes import AnswerVotes, RowVotes, Step
from distill.labeling.merging.dependence import USUAL_KAPPA
from distill.labeling.merging.kept_traces import AgreeingVotes
from distill.labeling.spans import SPANS_DTYPE
from distill.labeling.task import Task

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
_LINES_AT_ONCE = 20_000
_UNANSWERED = {"confidence": 0.0, "n_eff": 0.0, "votes": 0, "tie": False}
"""What a row has that nobody answered; all else is null."""


class AnswerMerging(NamedTuple):
    """Merged answers.

    Attributes:
        labels: A line a row, or a row and part; the columns of :data:`ANSWER_LABEL_SCHEMA` that the task has.
        methods: The method used, by part (None where the task has none).
        warning: As in :class:`~distill.labeling.merging.aggregate.Merging`.
    """

    labels: pl.DataFrame
    methods: dict[str | None, str]
    warning: str | None


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
        if single.closed:
            own = votes if single.part is None else votes.filter(pl.col("part") == single.part)
            found = merge(own, labels=single.tree or single.labels, method=method, ordered=single.ordered)
            table, methods[single.part] = found.labels, found.method
            warnings += [found.warning] if found.warning else []
        else:
            table = _merge_open(votes, task=single, method=method)
            methods[single.part] = _method(method)
        tables.append(table.with_columns(part=pl.lit(single.part, pl.String)))
    whole = pl.concat(tables, how="diagonal")
    tables.clear()
    return AnswerMerging(_in_order(whole, votes, _columns(task)), methods, "; ".join(warnings) or None)


def _in_order(whole: pl.DataFrame, votes: pl.DataFrame, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The columns of a table, its rows as they first stand among the votes and the parts of one together.

    Columns are taken out of the table one by one: none of them is there twice for longer than it takes to sort it.
    """
    order = votes.select(pl.col("row_id").cast(pl.String)).unique(maintain_order=True).with_row_index("row")
    row = whole.select("row_id").join(order, on="row_id", how="left", maintain_order="left", nulls_equal=True)["row"]
    at = None if row.is_sorted() else np.argsort(row.to_numpy(), kind="stable")
    height, found = whole.height, []
    for name, dtype in columns.items():
        if name not in whole.columns:
            found.append(pl.Series(name, [None], dtype).new_from_index(0, height))
            continue
        column = whole.drop_in_place(name).cast(dtype)
        found.append(column if at is None else _taken(column.rechunk(), at))
    return pl.DataFrame(found)


def _taken(column: pl.Series, at: np.ndarray) -> pl.Series:
    """Lines of a column. To take all at once, a column of lists needs for a moment several times what it holds."""
    steps = range(0, len(at), _LINES_AT_ONCE)
    return pl.concat([column.gather(at[start : start + _LINES_AT_ONCE]) for start in steps])


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
    by_family, column = _method(method) == "family_vote", task.answer_column
    heard = AnswerVotes.of(votes, column, part=task.part)
    rule, prior = rule_of(task, heard), _Agreement()
    pieces = [_laid_out(Step(range(0), []), [], column)]
    agrees = [np.zeros(0, dtype=bool)]
    for step in heard.by_row(by_family=by_family):
        forms = [[rule.form(answer) for answer in row.answers] for row in step.voted]
        merged = [rule.merge(row) for row in step.voted]
        prior.add(step.voted, forms, rule)
        wanted = [rule.form(found.answer) for found in merged]
        same = [form == its for own, its in zip(forms, wanted, strict=True) for form in own]
        agrees.append(np.array(same, dtype=bool))
        pieces.append(_laid_out(step, merged, column))
    table = pl.concat(pieces)
    more = [heard.row_ids, _confidence(table, prior.mean()), *_kept_traces(votes, heard, np.concatenate(agrees))]
    counts = [pl.col(name).fill_null(nothing) for name, nothing in _UNANSWERED.items()]
    return table.with_columns(*more).with_columns(counts)


class _Agreement:
    """How often two families say the same, over all rows and pairs; the usual kappa where there are no two."""

    def __init__(self) -> None:
        self.total, self.pairs = 0.0, 0

    def add(self, rows: Sequence[RowVotes], forms: Sequence[Sequence[Any]], rule: AnswerRule) -> None:
        for row, own in zip(rows, forms, strict=True):
            first = dict(zip(reversed(row.panel.families), reversed(own), strict=True))
            for one, other in combinations(first.values(), 2):
                self.total += rule.same(one, other)
                self.pairs += 1

    def mean(self) -> float:
        return self.total / self.pairs if self.pairs else USUAL_KAPPA


def _laid_out(step: Step, merged: Sequence[MergedAnswer], column: str) -> pl.DataFrame:
    """A line for each row of the step; null where nobody answered."""
    dtype = ANSWER_LABEL_SCHEMA[column]
    answers = [found.answer for found in merged]
    found = pl.DataFrame(
        [
            pl.Series("row", [row.row for row in step.voted], dtype=pl.UInt32),
            list_column(column, answers, dtype) if isinstance(dtype, pl.List) else pl.Series(column, answers, dtype),
            pl.Series("agreement", [found.agreement for found in merged], dtype=pl.Float64),
            pl.Series("n_eff", [row.panel.n_eff for row in step.voted], dtype=pl.Float64),
            pl.Series("votes", [len(row.answers) for row in step.voted], dtype=pl.Int32),
            pl.Series("tie", [found.tie for found in merged], dtype=pl.Boolean),
            list_column("support", [found.support for found in merged], pl.List(pl.Float64())),
            list_column("candidates", [found.candidates or None for found in merged], _CANDIDATES_DTYPE),
        ]
    )
    rows = pl.DataFrame({"row": pl.Series(step.rows, dtype=pl.UInt32)})
    return rows.join(found, on="row", how="left", maintain_order="left").drop("row")


def _confidence(table: pl.DataFrame, prior: float) -> pl.Series:
    agreement, n_eff = (table[name].to_numpy() for name in ("agreement", "n_eff"))
    strength = (1 - USUAL_KAPPA) / (2 * USUAL_KAPPA)
    confidence = pl.Series("confidence", (n_eff * agreement + strength * prior) / (n_eff + strength))
    return confidence.set(table["n_eff"].is_null(), None)


def _kept_traces(votes: pl.DataFrame, heard: AnswerVotes, agrees: np.ndarray) -> list[pl.Series]:
    """Trace, its teacher and clauses of the surest vote that gives the merged answer."""
    line, row, sure = (heard.table[name].to_numpy()[agrees] for name in ("line", "row", "sure"))
    agreeing = AgreeingVotes(votes, line, row, sure, len(heard.row_ids))
    flaws = agreeing.flaws()
    trace = agreeing.surest_with("trace", among=~flaws.unfit, after=flaws.flawed)
    clauses = np.where(trace >= 0, trace, agreeing.surest_with("clauses", after=flaws.flawed))
    return agreeing.kept(trace, clauses)


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
