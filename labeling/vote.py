"""A vote: what one teacher said of one row, or why it said nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, get_args

import polars as pl

from distill.labeling.answers.pack_answers import share_of
from distill.labeling.spans import SPANS_DTYPE, SpanAnswer
from distill.labeling.teacher import ProbsSource, TraceOrder

if TYPE_CHECKING:
    from distill.labeling.task import Task

Outcome = Literal["labeled", "abstained", "refused", "filtered", "invalid", "failed", "unsent", "explained"]
"""Every row × teacher × sample ends in exactly one.

``labeled``: an answer within the label set. ``abstained``: the teacher said that it cannot tell. ``refused``: the
model declined. ``filtered``: the provider withheld the answer. ``invalid``: an answer that does not fit the
schema, also after it was asked again. ``failed``: no answer, after retries. ``unsent``: never sent (the budget or the
run ended first, the teacher was stopped, a recorded teacher has no reply for the row, or another teacher of a cascade
answers it). ``explained``: a rationale for a label that people gave and the teacher was shown; it has no label of its
own and counts nowhere as a vote.
"""
OUTCOMES: tuple[str, ...] = get_args(Outcome)

MAX_REASON_CHARS = 500
"""A reason is cut to this."""


def reason_of(error: Exception, *, before: str = "") -> str:
    """An error by kind and in words, cut to what a reason may hold.

    Args:
        error: What went wrong.
        before: What stands before it.
    """
    return f"{before}{type(error).__name__}: {error}"[:MAX_REASON_CHARS]


@dataclass(slots=True)
class PartVote:
    """What a vote says of one part of a task that asks several at once: what differs from its other parts.

    Attributes:
        part: Name of the part.
        outcome: How it ended; None for as the whole vote did. So for all that follows: what is None here is the part's.
        reason: As in :class:`Vote`; so are all others.
    """

    part: str
    outcome: Outcome | None = None
    reason: str | None = None
    cause: str | None = None
    label: str | None = None
    labels: list[str] | None = None
    text: str | None = None
    texts: list[str] | None = None
    spans: list[SpanAnswer] | None = None
    confidence: float | None = None


@dataclass(slots=True)
class Vote:
    """What one teacher said of one row: a line of ``votes.parquet``, or a line for each of its ``parts``.

    Attributes:
        row_id: The row judged.
        teacher: The teacher's name in the recipe.
        family: Models that share ancestry err together; votes are shared out by family.
        sample: Index of a deliberate repeat, from 0.
        outcome: How it ended.
        reason: Why it is not ``labeled``, in words; None where it is. Where it is ``explained``, the label shown.
        label: The label; None unless ``labeled``.
        probs: Distribution in the order of the task's labels, summing to one; None where ``probs_source`` is ``none``.
        probs_source: Where ``probs`` comes from.
        trace: The reasoning given, cut to its budget; None where there is none.
        clauses: Ids of the guideline's clauses cited; unknown ids are left out.
        input_tokens: As the provider counted them; None where it did not say.
        output_tokens: Likewise.
        cost_usd: What the answer cost when it was bought; None where the price is not known.
        latency_s: Seconds from sending to the whole answer, when it was bought.
        from_ledger: Whether it was served from the ledger, so that this run paid nothing for it.
        key: Hex key of the request whose reply decided the vote; None where nothing was asked.
        guideline_version: Version of the guideline that was shown; None without one.
        round: Round of distillation, from 0.
        cause: Name of what went wrong, one of :data:`~distill.labeling.errors.CAUSES`; None where it is ``labeled``.
        shared_from: The row whose answer this is, where near-duplicates share one; None where the row was asked itself.
        probs_clipped: Whether a probability of ``probs`` was not given and stands at the least that the provider
            reports.
        trace_order: Whether the trace was written ``before`` the label, ``after`` it, with the answer in view, or for a
            label that was ``given``; None without one.
        asked_with: Rows that the request asked about, this one included; 1 where it was asked about alone. Tokens and
            cost are the row's share of the request's.
        position: Its place among them, from 0.
        trace_problems: What is wrong with the trace, see :data:`~distill.labeling.answers.traces.TraceProblem`; None
            without one.
        part: The part of the task that the line answers; None where the task has none. Lines of one request share
            its key, trace and clauses; tokens and cost are the line's share, so that they add up.
        labels: Where several labels may be right, those that are, in the order of the task's labels; empty for none.
        text: The text, where the answer is one.
        texts: The texts, the best first, where it is a list of them; empty for none.
        spans: The spans, in the order of the input; empty for none. Each null unless ``labeled``, and for other kinds.
        confidence: Stated probability that ``labels``, ``text``, ``texts`` or ``spans`` is right; None where none is.
            A distribution over one label is in ``probs`` instead.
        parts: What differs between the lines of the vote; empty where it is a single line.
    """

    row_id: str
    teacher: str
    family: str
    outcome: Outcome
    sample: int = 0
    reason: str | None = None
    label: str | None = None
    probs: list[float] | None = None
    probs_source: ProbsSource = "none"
    trace: str | None = None
    clauses: list[str] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    from_ledger: bool = False
    key: str | None = None
    guideline_version: str | None = None
    round: int = 0
    cause: str | None = None
    shared_from: str | None = None
    probs_clipped: bool = False
    trace_order: TraceOrder | None = None
    asked_with: int = 1
    position: int = 0
    trace_problems: list[str] | None = None
    part: str | None = None
    labels: list[str] | None = None
    text: str | None = None
    texts: list[str] | None = None
    spans: list[SpanAnswer] | None = None
    confidence: float | None = None
    parts: tuple[PartVote, ...] = ()

    @property
    def lines(self) -> tuple[Vote, ...]:
        """The lines that it makes: one for each part, with its share of tokens and cost."""
        if not self.parts:
            return (self,)
        count = len(self.parts)
        return tuple(self._line(part, place, count) for place, part in enumerate(self.parts))

    def _line(self, part: PartVote, place: int, count: int) -> Vote:
        own = part.outcome is not None
        return replace(
            self,
            parts=(),
            part=part.part,
            outcome=part.outcome or self.outcome,
            reason=part.reason if own else self.reason,
            cause=part.cause if own else self.cause,
            label=part.label,
            labels=part.labels,
            text=part.text,
            texts=part.texts,
            spans=part.spans,
            confidence=part.confidence,
            input_tokens=share_of(self.input_tokens, place, count),
            output_tokens=share_of(self.output_tokens, place, count),
            cost_usd=None if self.cost_usd is None else self.cost_usd / count,
        )


VOTE_SCHEMA: dict[str, pl.DataType] = {
    "row_id": pl.String(),
    "teacher": pl.String(),
    "family": pl.String(),
    "outcome": pl.String(),
    "sample": pl.Int32(),
    "reason": pl.String(),
    "label": pl.String(),
    "probs": pl.List(pl.Float64()),
    "probs_source": pl.String(),
    "trace": pl.String(),
    "clauses": pl.List(pl.String()),
    "input_tokens": pl.Int64(),
    "output_tokens": pl.Int64(),
    "cost_usd": pl.Float64(),
    "latency_s": pl.Float64(),
    "from_ledger": pl.Boolean(),
    "key": pl.String(),
    "guideline_version": pl.String(),
    "round": pl.Int32(),
    "cause": pl.String(),
    "shared_from": pl.String(),
    "probs_clipped": pl.Boolean(),
    "trace_order": pl.String(),
    "asked_with": pl.Int32(),
    "position": pl.Int32(),
    "trace_problems": pl.List(pl.String()),
    "part": pl.String(),
    "labels": pl.List(pl.String()),
    "text": pl.String(),
    "texts": pl.List(pl.String()),
    "spans": SPANS_DTYPE,
    "confidence": pl.Float64(),
}
"""Columns of a table of votes, in order: a line a row × teacher × sample × part.

``part`` is null but for tasks of several parts. Where an answer is one label it is in ``label``; in ``labels`` where
several may be right, in ``text``, in ``texts`` (a ranked list) or in ``spans`` otherwise
(:attr:`~distill.labeling.task.Task.answer_column`), with ``confidence`` where it was stated. An empty list is an
answer: there is none. ``votes.parquet`` has the columns of its task alone, see :func:`stored_columns`.
"""


def parts_of(task: Task) -> tuple[PartVote, ...]:
    """The parts of a vote that ends all of them alike; empty where the task has none."""
    return tuple(PartVote(str(part.part)) for part in task.parts)


_ANSWER_COLUMNS = ("label", "labels", "text", "texts", "spans")


def stored_columns(task: Task) -> list[str]:
    """The columns of ``votes.parquet`` for a task: those of a choice are always there, others where it fills them."""
    kept = {part.answer_column for part in task.singles}
    own = {
        "part": bool(task.parts),
        "confidence": kept != {"label"},
        **{name: name in kept for name in _ANSWER_COLUMNS},
    }
    return [name for name in VOTE_SCHEMA if name == "label" or own.get(name, True)]


def part_place(task: Task) -> pl.Expr:
    """The place of a line among those of its vote, to sort by."""
    names = [str(part.part) for part in task.parts]
    return pl.col("part").replace_strict(names, range(len(names)), default=0, return_dtype=pl.Int32)


def answer_text(columns: Collection[str]) -> pl.Expr:
    """A vote's answer as text, the same for equal answers of any kind; null where there is none.

    Args:
        columns: Those that the table has.
    """
    lists = [pl.col(name).list.join("\x1f") for name in ("labels", "texts") if name in columns]
    if "spans" in columns:
        spans = pl.col("spans").list.eval(
            pl.concat_str(pl.element().struct.field("start", "end", "type"), separator=":")
        )
        lists.append(spans.list.join("\x1f"))
    return pl.coalesce("label", *(name for name in ("text",) if name in columns), *lists)


def votes_frame(votes: Iterable[Vote]) -> pl.DataFrame:
    """Lays votes out as a table with the columns of :data:`VOTE_SCHEMA`, a line a vote and part."""
    votes = [line for vote in votes for line in (vote.lines if vote.parts else (vote,))]
    columns = []
    for name, dtype in VOTE_SCHEMA.items():
        values = list(map(attrgetter(name), votes))
        if name == "spans":
            values = [None if spans is None else [span._asdict() for span in spans] for spans in values]
            columns.append(pl.Series(name, values, dtype))
            continue
        columns.append(_lists(name, values, dtype) if isinstance(dtype, pl.List) else pl.Series(name, values, dtype))
    return pl.DataFrame(columns)


def _lists(name: str, values: list[list[Any] | None], dtype: pl.DataType) -> pl.Series:
    """A column of short lists, of which most are the same: each is converted once, which is what takes the time."""
    places: dict[tuple[Any, ...] | None, int] = {}
    at = [places.setdefault(None if value is None else tuple(value), len(places)) for value in values]
    distinct = pl.Series(name, [None if value is None else list(value) for value in places], dtype)
    return distinct.gather(at)
