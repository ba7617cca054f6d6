"""The strong teacher of a cascade in a plan: how many rows it gets is known only when the cheap one has answered."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from distill.plan_estimates import Interval

if TYPE_CHECKING:
    from distill.labeling.asking.asked_rows import AskedRows
    from distill.labeling.ledger.ledger import Ledger
    from distill.labeling.teacher import Completion, Prompt, Reply, Request, Teacher
    from distill.plan_teacher import TeacherPlan


@dataclass(frozen=True)
class Foreseen:
    """Who is asked about what in a cascade, as far as the answers that are there tell.

    Attributes:
        sent: By teacher, ``row_id`` of the rows that it is asked about whatever else is answered. A teacher that is
            asked about every row is not among them.
        spared: By teacher, ``row_id`` of the rows that it is not asked about.
        why: Why not all of it is certain, in words; what is certain is told behind it.
    """

    sent: dict[str, pl.DataFrame]
    spared: dict[str, pl.DataFrame]
    why: str = (
        "asked about the calibration rows in any case, and about the others only where the cheap teacher of the "
        "cascade is unsure, as far as its answers are known"
    )

    def certain(self, batch: pl.DataFrame, teacher: str) -> pl.DataFrame:
        """The rows of a batch that the teacher is asked about for certain."""
        return batch.join(self.sent[teacher], on="row_id", how="semi", maintain_order="left")

    def possible(self, batch: pl.DataFrame, teacher: str) -> pl.DataFrame:
        """Those that it may be asked about."""
        spared = self.spared.get(teacher)
        return batch if spared is None else batch.join(spared, on="row_id", how="anti", maintain_order="left")


_UNLIMITED = {"budget_usd": None, "quota": None, "watch": None, "stop_after_failures": None}


def foresee(asked: AskedRows, *, teachers: Sequence[Teacher], ledger: Ledger, scratch: Ledger) -> Foreseen:
    """Follows a cascade through the answers that the ledger holds or that were recorded; nothing is sent.

    Args:
        asked: The rows.
        teachers: The two.
        ledger: Where replies are looked up.
        scratch: Another one, for the engine to keep what it is given.

    Raises:
        DataError: The cheap teacher's answers do not say how sure it is, or there is nothing to measure against.
    """
    from distill.labeling.asking.cascade_run import calibration_rows, run_cascade
    from distill.labeling.vote import votes_frame

    cascade = asked.config.cascade
    assert cascade is not None
    drawn = calibration_rows(asked, cascade).select("row_id")
    parts = [votes_frame([])]
    held = [_Held(teacher, ledger) for teacher in teachers]
    freely = copy.copy(asked)
    freely.config = asked.config.model_copy(update=_UNLIMITED)
    _, facts = run_cascade(freely, teachers=held, ledger=scratch, on_votes=parts.append)
    votes = pl.concat(parts)
    unknown = votes.filter(pl.col("cause") == "no_reply")
    if len(unknown.join(drawn, on="row_id", how="semi")):
        return Foreseen({cascade.strong: drawn}, {})
    lines = votes.join(asked.askable().select("row_id"), on="row_id", how="semi")
    spared = lines.filter(pl.col("cause") == "cascade")
    by_teacher = {name: spared.filter(pl.col("teacher") == name).select("row_id").unique() for name in cascade.order}
    if facts.choice is not None and facts.choice.threshold is None:
        return Foreseen({}, by_teacher)
    # A row whose answer of the cheap teacher is not there may yet be kept.
    open_rows = unknown.filter(pl.col("teacher") == cascade.cheap).select("row_id")
    sent = lines.select("row_id").unique().join(by_teacher[cascade.strong], on="row_id", how="anti")
    return Foreseen({cascade.strong: sent.join(open_rows, on="row_id", how="anti")}, by_teacher)


class _Held:
    """A teacher that says only what is there already. It has no server to open, probe or learn of."""

    def __init__(self, teacher: Teacher, ledger: Ledger) -> None:
        self.name, self.family, self.answer = teacher.name, teacher.family, teacher.answer
        self.max_concurrency = teacher.max_concurrency
        self._teacher, self._ledger = teacher, ledger
        # Recorded replies are asked for without anybody being asked.
        self._free = not hasattr(teacher, "endpoint")

    def compile(self, prompt: Prompt, *, sample: int) -> Request | None:
        """As the teacher's own, where the reply is there."""
        request = self._teacher.compile(prompt, sample=sample)
        if request is None or self._free or self._ledger.get_many([request.key]):
            return request
        return None

    def read(self, reply: Reply) -> Completion:
        """As the teacher's own."""
        return self._teacher.read(reply)

    async def ask(self, request: Request) -> Reply:
        """Gives the reply that is there."""
        held = self._ledger.get_many([request.key])
        return held[request.key] if request.key in held else await self._teacher.ask(request)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""


def from_least(most: TeacherPlan, least: TeacherPlan, *, why: str) -> TeacherPlan:
    """The plan of a teacher that is asked about some rows for certain, and at most about all.

    Args:
        most: Where it is asked about every row.
        least: Where it is asked about those alone that are certain.
        why: Why not all is certain, in words.
    """
    return replace(
        most,
        to_send_least=least.to_send,
        least_why=why,
        input_tokens=_spanned(least.input_tokens, most.input_tokens) or most.input_tokens,
        output_tokens=_spanned(least.output_tokens, most.output_tokens) or most.output_tokens,
        cost_usd=_spanned(least.cost_usd, most.cost_usd),
        time_s=_spanned(least.time_s, most.time_s),
    )


def _spanned(least: Interval | None, most: Interval | None) -> Interval | None:
    return None if least is None or most is None else Interval(least.low, most.high)
