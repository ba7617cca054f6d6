"""Results of a provider batch job: made durable, counted, and what becomes of rows that got none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from distill.labeling.engine.batch_service import BatchResult, BatchStatus
from distill.labeling.engine.budget import Use
from distill.labeling.engine.jobs import Job
from distill.labeling.errors import BatchUnfinishedError, TeacherError
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.teacher import Reply
from distill.labeling.vote import reason_of

if TYPE_CHECKING:
    from distill.labeling.engine.lane import Lane

RESULTS_PER_STEP = 512
"""Results that are dealt with before anybody else gets a turn."""


class Results(NamedTuple):
    """What came back of a job, by key: replies as the ledger holds them, and errors."""

    replies: dict[bytes, Reply]
    errors: dict[bytes, TeacherError]


async def keep_results(
    results: AsyncIterator[BatchResult], *, ledger: Ledger, keys: Collection[bytes], source: Source
) -> Results:
    """Puts results into the ledger, and waits until they are durable.

    Args:
        results: As the provider gives them.
        ledger: Where replies are kept.
        keys: Keys of the job. Others were not asked for: they would be answers to nobody knows what.
        source: Who answered, and which teacher asked.

    Raises:
        TeacherError: The provider stopped giving results; what came before is kept.
        LedgerWriteError: They could not be made durable.
    """
    found, unkept = Results({}, {}), dict[bytes, asyncio.Future[Reply]]()

    async def settle() -> None:
        ledger.hurry()
        for key, kept in unkept.items():
            found.replies[key] = await kept
        unkept.clear()

    async for result in results:
        if result.key not in keys:
            continue
        if isinstance(result.reply, Reply):
            unkept[result.key] = ledger.put_soon(result.key, result.reply, source=source)
        else:
            found.errors[result.key] = result.reply
        if len(unkept) >= RESULTS_PER_STEP:
            await settle()
    await settle()
    return found


def count_paid(lane: Lane, replies: Iterable[Reply]) -> Use:
    """Counts what a job has cost, also for rows that nobody waits for any more."""
    tally, purse, used = lane.tally, lane.gate.purse, Use()
    for reply in replies:
        tokens = 0.0
        if purse.limited:
            with suppress(TeacherError):
                completion = reply.completion or lane.teacher.read(reply)
                tokens = float((completion.input_tokens or 0) + (completion.output_tokens or 0))
            purse.learn(tokens=tokens, usd=reply.cost_usd or 0.0)
        if reply.cost_usd is None:
            tally.unpriced += 1
        else:
            tally.cost_usd += reply.cost_usd
        used = Use(used.requests + 1, used.tokens + tokens, used.usd + (reply.cost_usd or 0.0))
    return used


def after_failure(lane: Lane, rows: Iterable[Job], error: TeacherError) -> list[Job]:
    """Ends rows that are not sent again, and returns the others: as after a failure of a request sent live.

    Args:
        lane: Whose rows they are; it is stopped where the error stops teachers.
        rows: Those that got no answer.
        error: Why.

    Returns:
        The rows to be sent again.
    """
    again, text = [], reason_of(error)
    for job in rows:
        job.failures += 1
        job.so_far = ("failed", text, error.cause)
        if error.stops_teacher:
            lane.stop(text, error.cause)
        if lane.tally.stopped is not None or not error.retryable or job.failures > lane.floor.config.retries:
            lane.floor.give_up(job, "failed", text, cause=error.cause)
        else:
            lane.tally.retries[error.cause] += 1
            again.append(job)
    return again


def unfinished(name: str, status: BatchStatus) -> BatchUnfinishedError:
    """Says that a job ended without a result for a request."""
    ends = {"expired": "expired", "cancelled": "was cancelled"}
    return BatchUnfinishedError(f"batch job {name} {ends.get(status.state, 'ended')} without a result for it")
