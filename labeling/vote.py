"""A vote: what one teacher said of one row, or why it said nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, get_args

import polars as pl

from distill.labeling.teacher import ProbsSource, TraceOrder

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


@dataclass(slots=True)
class Vote:
    """One line of ``votes.parquet``.

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
        trace_problems: What is wrong with the trace, see :data:`~distill.labeling.traces.TraceProblem`; None without
            one.
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
}
"""Columns of ``votes.parquet``, in order."""


def votes_frame(votes: Iterable[Vote]) -> pl.DataFrame:
    """Lays votes out as a table with the columns of :data:`VOTE_SCHEMA`, one line a vote."""
    votes = list(votes)
    columns = []
    for name, dtype in VOTE_SCHEMA.items():
        values = list(map(attrgetter(name), votes))
        columns.append(_lists(name, values, dtype) if isinstance(dtype, pl.List) else pl.Series(name, values, dtype))
    return pl.DataFrame(columns)


def _lists(name: str, values: list[list[Any] | None], dtype: pl.DataType) -> pl.Series:
    """A column of short lists, of which most are the same: each is converted once, which is what takes the time."""
    places: dict[tuple[Any, ...] | None, int] = {}
    at = [places.setdefault(None if value is None else tuple(value), len(places)) for value in values]
    distinct = pl.Series(name, [None if value is None else list(value) for value in places], dtype)
    return distinct.gather(at)
