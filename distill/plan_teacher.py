"""What a plan says of one teacher: the counts, and the same in words for a table."""

from __future__ import annotations

from dataclasses import dataclass

from distill.plan_estimates import Interval

PLAN_HEADS = (
    "teacher",
    "rows",
    "same",
    "in ledger",
    "no reply",
    "to send",
    "tokens in",
    "tokens out",
    "cost",
    "time",
)
"""Heads of the columns that :func:`plan_cells` fills."""


@dataclass(frozen=True)
class TeacherPlan:
    """What one teacher would be asked.

    Attributes:
        teacher: Its name.
        rows: Rows of the splits that are asked, times samples.
        duplicates: Of those, requests that are the same as another one: asked once.
        in_ledger: Distinct requests whose reply is held already: free.
        without_reply: Rows that a recorded teacher has no reply for, or whose label cannot be shown to a teacher that
            is to explain it.
        to_send: Distinct requests that would be sent; one about several rows is one.
        input_tokens: Of what would be sent.
        output_tokens: Of what would come back.
        cost_usd: None where the price is not known.
        time_s: None where no reply of this teacher tells how long it takes.
        basis: What the estimates rest on.
        earlier: Answers of this teacher that the ledger holds to other requests: of an earlier guideline or prompt, or
            on other rows. None of them answers what is to be sent.
        probe: How the probe went, one line; None where there was none.
        canaries: Of the rows, those with a planted order.
        rows_cut: Rows of which an input is too long and is shown in part.
        shared: Rows that are not asked since they take a near-duplicate's answer; not among ``rows``.
        lane: How it answers, where it has several ways and one is settled on; None otherwise.
        remarks: What else the numbers rest on.
        packs: Of the requests to send, those about several rows.
        rows_to_send: Rows times samples that the requests to send ask about.
        checks: Of ``rows``, those that are asked alone beside others.
        by_batch: Whether it goes by the provider's batch jobs: the cost is that of jobs, and the time not estimated.
        in_batch: Distinct requests that are in a job that earlier runs submitted: they are waited for, not sent again.
        to_send_least: Of ``to_send``, what is sent for certain: in a cascade whatever the cheap teacher says, in rounds
            the first one. Tokens, cost and time then begin at what these take. None where all is certain.
        least_why: Why not all is certain, in words.
    """

    teacher: str
    rows: int
    duplicates: int
    in_ledger: int
    without_reply: int
    to_send: int
    input_tokens: Interval
    output_tokens: Interval
    cost_usd: Interval | None
    time_s: Interval | None
    basis: str
    earlier: int = 0
    probe: str | None = None
    canaries: int = 0
    rows_cut: int = 0
    shared: int = 0
    lane: str | None = None
    remarks: tuple[str, ...] = ()
    packs: int = 0
    rows_to_send: int = 0
    checks: int = 0
    by_batch: bool = False
    in_batch: int = 0
    to_send_least: int | None = None
    least_why: str = ""


def plan_cells(plan: TeacherPlan) -> tuple[str, ...]:
    """A line of the table: one text a column of :data:`PLAN_HEADS`."""
    counts = (plan.rows, plan.duplicates, plan.in_ledger, plan.without_reply)
    least = plan.to_send if plan.to_send_least is None else plan.to_send_least
    to_send = _range(Interval(least, plan.to_send), "{:,.0f}")
    cost = "unknown" if plan.cost_usd is None else _range(plan.cost_usd, "${:,.2f}")
    time_s = "unknown" if plan.time_s is None else _range(plan.time_s, "{:,.0f} s")
    if plan.by_batch:
        time_s = "within 24 h" if plan.to_send or plan.in_batch else "0 s"
    tokens = (_range(plan.input_tokens, "{:,.0f}"), _range(plan.output_tokens, "{:,.0f}"))
    return (plan.teacher, *(f"{count:,}" for count in counts), to_send, *tokens, cost, time_s)


def plan_notes(plan: TeacherPlan) -> list[str]:
    """What is to be said of a teacher below the table, a sentence each."""
    notes = [plan.probe] if plan.probe else []
    notes += plan.remarks
    if plan.packs:
        said = f"the {plan.to_send:,} requests to send ask about {plan.rows_to_send:,} rows, {plan.packs:,} of them "
        notes.append(f"{said}about several at once; {plan.checks:,} rows are asked alone as well, to compare")
    if plan.by_batch and plan.to_send:
        notes.append("it goes by batch jobs, at their price; the provider answers each within 24 h")
    if plan.in_batch:
        notes.append(f"{plan.in_batch:,} requests are in open batch jobs: waited for, and not sent again")
    if plan.to_send_least is not None and plan.to_send:
        notes.append(f"{plan.least_why}: {plan.to_send_least:,} are certain")
    if plan.to_send:
        notes.append(plan.basis)
        if plan.cost_usd is None:
            notes.append(
                f"its cost is unknown, not zero; give teachers.{plan.teacher}.price (0 where it costs nothing)"
            )
        if plan.earlier:
            notes.append(
                f"the ledger holds {plan.earlier:,} answers of it to other requests (an earlier guideline or prompt, "
                f"other rows); none of them answers the {plan.to_send:,} to send"
            )
    return notes


def notes_on_rows(plan: TeacherPlan) -> list[str]:
    """What all teachers of a run have in common, told once: canaries, rows that share, rows that are cut."""
    said = []
    if plan.canaries:
        said.append(f"{plan.canaries:,} of the rows are canaries: they carry a planted order and never become labels")
    if plan.shared:
        said.append(f"{plan.shared:,} further rows are not asked: they take the answer of a near-duplicate")
    if plan.rows_cut:
        said.append(f"{plan.rows_cut:,} rows are too long and are shown in part")
    return said


def _range(interval: Interval, pattern: str) -> str:
    low, high = pattern.format(interval.low), pattern.format(interval.high)
    return low if low == high else f"{low}–{high}"
