"""The part of a lane that goes by provider batch jobs: rows are gathered, submitted, waited for and delivered.

What happens to a job, in this order: its intent is written to the journal; it is submitted; its id is written; its
results are put into the ledger; it is closed in the journal; its rows get their answers. A kill between any two of
these leaves what the next run needs to go on: nothing is submitted twice, and no result that was paid for is lost.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from distill.labeling.engine.batch_config import BatchConfig
from distill.labeling.engine.batch_gathering import Gathering, size_of
from distill.labeling.engine.batch_job import ProviderJob
from distill.labeling.engine.batch_journal import BatchJournal, OpenJob
from distill.labeling.engine.batch_open_jobs import OpenJobs
from distill.labeling.engine.batch_results import (
    RESULTS_PER_STEP,
    after_failure,
    count_paid,
    keep_results,
    unfinished,
)
from distill.labeling.engine.batch_service import BatchService, BatchStatus
from distill.labeling.engine.budget import Use
from distill.labeling.engine.jobs import Job
from distill.labeling.engine.limits import backoff_s
from distill.labeling.engine.progress import BatchProgress
from distill.labeling.errors import BadReplyError, LedgerError, TeacherError
from distill.labeling.ledger.ledger import Source
from distill.labeling.vote import reason_of

if TYPE_CHECKING:
    from distill.labeling.engine.lane import Lane

MOST_OPEN = 250_000
"""Rows that are gathered or in jobs at one time: about 2 KB of memory each."""

_UNREACHABLE_S = 3600.0
_LOOK_FOR_IT_S = 5.0

_Value = TypeVar("_Value")


class BatchLane:
    """Takes rows that the ledger cannot answer through the provider's batch jobs.

    It is there for every teacher whose provider has jobs. Where the recipe does not ask for them it only waits for
    those that earlier runs left open, so that nothing in them is asked live and paid for again.

    Args:
        lane: The lane.
        service: The provider's jobs.
        config: How they are used; None where the recipe does not ask for them.
    """

    def __init__(self, lane: Lane, service: BatchService, config: BatchConfig | None) -> None:
        self.left = False
        self._lane = lane
        self._floor = lane.floor
        self._service = service
        self._submits = config is not None
        self._config = config or BatchConfig()
        self._journal = BatchJournal(lane.floor.ledger)
        self._purse = lane.gate.purse
        self._gathering = Gathering(service, self._purse, most_requests=self._config.most_requests)
        self._open = OpenJobs(lane, self._journal, self._config)
        self._hold_until_s = -math.inf
        self._until_one_ends = False
        self._refusals = 0
        self._rows_ended = False
        self._flush = False
        self._running = False
        self._woken = asyncio.Event()
        self._looked = asyncio.Event()

    @property
    def _source(self) -> Source:
        teacher: Any = self._lane.teacher
        return Source(teacher.endpoint, teacher.model, teacher.name)

    # What the lane calls

    async def start(self, delivered: Callable[[], Awaitable[None]]) -> asyncio.Task[None] | None:
        """Reads which jobs are open, and begins to look after them.

        Args:
            delivered: Waits while votes pile up unwritten.

        Returns:
            The task that does so; None where there is nothing to do.

        Raises:
            LedgerError: The journal cannot be read.
        """
        self._delivered = delivered
        if self._lane.tally.stopped is not None:  # it could not be opened: nobody to ask about jobs
            return None
        source = self._source
        for entry in await asyncio.to_thread(self._journal.open_jobs, source.endpoint, source.model):
            await self._open.adopt(entry)
        if not self._submits and not self._open.jobs:
            return None
        self._running = True
        return self._floor.spawn(self._drive())

    def takes(self, job: Job) -> bool:
        """Takes a row that the ledger cannot answer, where it is one for a batch job."""
        if not self._running or job.key != job.request.key:  # it waits for a reply about several rows
            return False
        if (open_job := self._open.holding(job.request.key)) is not None:
            self._attach(open_job, job)
            return True
        if not self._submits or self._lane.tally.stopped is not None:
            return False
        if self._config.live_tail and (job.failures or job.reasks):
            return False
        if (size := size_of(job.request)) > self._service.most_bytes:
            text = f"a request of {size:,} bytes is more than a batch job may hold; shorten the row"
            self._floor.give_up(job, "failed", text, cause="request_rejected")
            return True
        self._gathering.add(job)
        self.wake()
        return True

    def rows_ended(self) -> None:
        """Nothing is to come but what is asked again: a job need not be full any more."""
        self._rows_ended = True
        self.wake()

    def room(self, usual: int) -> int:
        """How many rows may be open at a time, where a lane without jobs has ``usual``."""
        if not self._running:
            return usual
        if not self._submits:
            return usual + sum(len(job.waiting) for job in self._open.jobs.values())
        return 0 if self._gathering.overfull else MOST_OPEN

    def flush(self) -> None:
        """No row can come before some have ended: what is gathered goes now."""
        self._flush = True
        self.wake()

    async def looked_at_all(self) -> None:
        """Waits until every job was looked at once: the results of one that is over are taken, wanted or not."""
        while self._running and not self.left and not all(job.looks for job in self._open.watched()):
            self._looked.clear()
            await self._looked.wait()

    def wake(self) -> None:
        """Has it look whether there is something to do."""
        self._woken.set()

    def let_go(self) -> list[Job]:
        """Gives back what is gathered, since nothing more is submitted. Open jobs are waited for all the same."""
        return self._gathering.let_go()

    def progress(self) -> BatchProgress | None:
        """How its jobs are getting on; None where there is none and none is to come."""
        if not self._running:
            return None
        return self._open.progress(gathered=len(self._gathering.rows))

    # One thing after the other

    async def _drive(self) -> None:
        while True:
            self._looked.set()
            now_s = self._floor.timing.clock()
            due = min(self._open.watched(), key=lambda job: job.next_look_s, default=None)
            if due is not None and due.next_look_s <= now_s:
                await self._look(due)
            elif self._may_submit(now_s) and (chosen := self._gathering.cut()):
                self._flush = False
                self._lane.feed_on()
                await self._submit(chosen)
            elif self._may_submit(now_s) and (reason := self._gathering.short_text()):
                self._lane.spent(reason)
            elif self._patience_is_over(now_s):
                self._leave(self._open.under_way(), "in_batch")
            else:
                await self._rest(min(due.next_look_s if due else math.inf, self._next_s(now_s)) - now_s)

    async def _rest(self, seconds: float) -> None:
        """Waits so long, or until something has changed."""
        waits: set[asyncio.Task[Any]] = {asyncio.create_task(self._woken.wait())}
        if seconds < math.inf:
            waits.add(asyncio.create_task(self._sleep(max(0.0, seconds))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._woken.clear()

    async def _sleep(self, seconds: float) -> None:
        await self._floor.timing.sleep(seconds)

    def _next_s(self, now_s: float) -> float:
        """When there may be something to do besides looking at jobs."""
        moments = [self._hold_until_s] if self._gathering.rows else []
        if (self._open.jobs or self._gathering.rows) and not self.left:
            moments.append(self._floor.began_s + self._config.patience_s)
        return min((moment for moment in moments if moment > now_s), default=math.inf)

    def _may_submit(self, now_s: float) -> bool:
        if not self._gathering.rows or self._lane.tally.stopped is not None:
            return False
        if now_s < self._hold_until_s or self._until_one_ends:
            return False
        return self._rows_ended or self._flush or self._gathering.full

    def _patience_is_over(self, now_s: float) -> bool:
        if self.left or not self._rows_ended or now_s < self._floor.began_s + self._config.patience_s:
            return False
        waiting = self._gathering.rows or any(job.waiting for job in self._open.jobs.values())
        return bool(waiting) and all(job.looks for job in self._open.watched())

    def _leave(self, reason: str, cause: str) -> None:
        """Waits no longer: jobs go on at the provider, and rows in them end as unsent, to be picked up."""
        self.left = True
        self._lane.stop(reason, cause)
        for job in self._open.watched():
            for waiting in list(job.waiting.values()):
                self._end_in_batch(job, waiting)
            job.waiting.clear()
            self._open.leave(job)

    def _end_in_batch(self, job: ProviderJob, waiting: Job) -> None:
        reason = f"it waits in batch job {job.name} at the provider; the same command takes the result from there"
        self._floor.give_up(waiting, "unsent", reason, cause="in_batch")

    # Jobs in

    def _attach(self, open_job: ProviderJob, job: Job) -> None:
        if self.left:
            self._end_in_batch(open_job, job)
            return
        job.asked = True
        job.request = replace(
            job.request, start=b"", rest=b""
        )  # it is written again from the prompt where it is needed
        open_job.waiting[job.request.key] = job
        self.wake()

    def _forget(self, job: ProviderJob, used: Use) -> list[Job]:
        """Follows a job no longer; the rows that waited for it are the caller's."""
        self._until_one_ends = False
        return self._open.forget(job, used)

    # Submitting

    async def _submit(self, chosen: list[Job]) -> None:
        """Submits a job, once its intent is on record."""
        requests = [job.request for job in chosen]
        asides = [self._gathering.expected(request) for request in requests]
        # Before anything is waited for: lanes that share the budget would use it meanwhile.
        aside = Use(*map(sum, zip(*asides, strict=True)))
        self._purse.set_aside(aside)
        intent = await asyncio.to_thread(self._journal.intend, requests, source=self._source, asides=asides)
        for tag in set(intent.taken.values()) - self._open.jobs.keys():
            if (entry := await asyncio.to_thread(self._journal.open_job, tag)) is not None:
                await self._open.adopt(entry)
        now_s = self._floor.timing.clock()
        self._purse.put_right(aside, Use())
        if intent.job is not None:
            job = ProviderJob(intent.job, intent.keys, ours=True, job_id=None, next_look_s=math.inf)
            job.tail_s = self._open.tail_s(now_s)
            self._open.follow(job)
        # Those of other jobs are attached; those that came into the ledger, or whose job is over, are served again.
        own = [one for one in chosen if one.request.key in intent.keys]
        await self._serve_again([one for one in chosen if one.request.key not in intent.keys])
        if intent.job is None:
            return
        requests = [one.request for one in own]
        for one in own:
            self._attach(job, one)
        self._lane.tally.requests_sent += len(requests)
        self._lane.tally.batch_jobs += 1
        try:
            job_id = await self._beating(job, self._asked(self._service.submit(requests, tag=job.tag)))
        except TeacherError as error:
            if error.retryable:  # it may have arrived all the same
                job.trouble, job.next_look_s = error, self._floor.timing.clock() + _LOOK_FOR_IT_S
                self._open.note(job, "unclear", reason=reason_of(error))
            else:
                await self._refused(job, error)
            return
        await self._is_submitted(job, job_id)

    async def _beating(self, job: ProviderJob, submitting: Awaitable[str]) -> str:
        """Submits, and says meanwhile that somebody does: else another process would take the job for abandoned."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(max(1.0, self._config.grace_s / 4))
                await asyncio.to_thread(self._journal.touch, job.tag)

        heart = asyncio.create_task(beat())
        try:
            return await submitting
        finally:
            heart.cancel()
            with suppress(asyncio.CancelledError):
                await heart

    async def _is_submitted(self, job: ProviderJob, job_id: str) -> None:
        job.job_id, job.trouble = job_id, None
        if not await asyncio.to_thread(self._journal.submitted, job.tag, job_id):
            # Another process has given it up meanwhile and asks its rows anew.
            with suppress(TeacherError):
                await self._asked(self._service.cancel(job_id))
            await self._serve_again(self._forget(job, Use()))
            return
        job.look_again(self._floor.timing.clock())
        self._open.note(job, "submitted")

    async def _refused(self, job: ProviderJob, error: TeacherError) -> None:
        """Deals with a job that the provider does not take: nothing of it was asked."""
        await asyncio.to_thread(self._journal.close, job.tag, "refused")
        self._open.note(job, "refused", reason=reason_of(error))
        alone = not any(other.job_id for other in self._open.watched() if other is not job)
        rows = self._forget(job, Use())
        if not error.retryable:
            self._lane.stop(f"the provider refused batch job {job.name}: {reason_of(error)}", error.cause)
        elif alone:
            # Too much for it even so: a smaller job may fit.
            self._gathering.most_requests = max(1, min(self._gathering.most_requests, len(job.keys)) // 2)
            self._hold_until_s = self._floor.timing.clock() + self._pause_s()
            rows = after_failure(self._lane, rows, error)
        else:
            self._until_one_ends = True
        await self._serve_again(rows)

    def _pause_s(self) -> float:
        self._refusals += 1
        return 60.0 + backoff_s(self._refusals, self._floor.timing.uniform, first_s=60.0, most_s=900.0)

    # Looking

    async def _look(self, job: ProviderJob) -> None:
        """Finds out how a job is, and does what follows from it."""
        now_s = self._floor.timing.clock()
        entry = await asyncio.to_thread(self._journal.open_job, job.tag)
        if entry is None:  # another process was first: its answers are in the ledger, and the rest is to be asked
            await self._serve_again(self._forget(job, Use()))
            return
        job.job_id = job.job_id or entry.job_id
        try:
            if job.job_id is None:
                await self._look_for(job, entry)
            else:
                await self._look_at(job, job.job_id)
            job.lost_since_s = None
        except TeacherError as error:
            job.lost_since_s = now_s if job.lost_since_s is None else job.lost_since_s
            if error.retryable and now_s - job.lost_since_s < _UNREACHABLE_S:
                job.look_again(now_s)
                self._open.note(job, "unreachable", reason=reason_of(error))
            else:
                self._leave(f"batch job {job.name} cannot be asked about: {reason_of(error)}", error.cause)

    async def _look_for(self, job: ProviderJob, entry: OpenJob) -> None:
        """Looks for a job of which only the intent is known."""
        if (job_id := await self._asked(self._service.find(job.tag))) is not None:
            await self._is_submitted(job, job_id)
            return
        now_s = self._floor.timing.clock()
        # By the run's clock from the first look on; while another process is still submitting it, that moves on.
        silent_s = min(max(0.0, time.time() - entry.touched_s), self._config.grace_s)
        moved = entry.touched_s > job.entry.touched_s
        if job.abandoned_s == math.inf or moved:
            job.abandoned_s, job.entry = now_s + self._config.grace_s - silent_s, entry
        if now_s < job.abandoned_s:
            job.looks += 1
            job.next_look_s = min(now_s + _LOOK_FOR_IT_S, job.abandoned_s)
            return
        if not await asyncio.to_thread(self._journal.close, job.tag, "never submitted", unsubmitted=True):
            job.next_look_s = now_s  # it has been found, or given up, by another process just now
            return
        self._open.note(job, "never submitted")
        rows, trouble = self._forget(job, Use()), job.trouble
        if trouble is not None:
            self._hold_until_s = now_s + backoff_s(self._refusals, self._floor.timing.uniform)
            self._refusals += 1
            rows = after_failure(self._lane, rows, trouble)
        await self._serve_again(rows)

    async def _look_at(self, job: ProviderJob, job_id: str) -> None:
        status = await self._asked(self._service.status(job_id))
        now_s = self._floor.timing.clock()
        job.done = min(status.done, job.entry.requests)
        if status.state == "running":
            if now_s >= job.tail_s and not job.cancelling:
                await self._asked(self._service.cancel(job_id))
                job.cancelling, job.looks = True, 0
                self._open.note(job, "cancelled, to ask the rest live")
            job.look_again(now_s)
        elif status.state == "failed":
            error = status.error or TeacherError(status.reason or "the provider gives no reason")
            await self._refused(job, error)
        else:
            await self._take_results(job, job_id, status)

    async def _asked(self, call: Awaitable[_Value]) -> _Value:
        """Awaits the provider; a surprise counts as an answer that is not the protocol, and does not end the run."""
        try:
            return await call
        except (TeacherError, LedgerError):
            raise
        except Exception as error:
            raise BadReplyError(f"teacher {self._lane.teacher.name}: its batch jobs: {error!r}") from error

    # Results

    async def _take_results(self, job: ProviderJob, job_id: str, status: BatchStatus) -> None:
        """Makes what came back durable, closes the job, and only then gives each row its answer."""
        replies, errors = await self._asked(
            keep_results(
                self._service.results(job_id), ledger=self._floor.ledger, keys=job.keys, source=job.entry.source
            )
        )
        first = await asyncio.to_thread(self._journal.close, job.tag, status.state)
        self._refusals = 0
        used = count_paid(self._lane, replies.values()) if first else Use()
        self._open.note(job, status.state, answered=len(replies), failed=len(errors))
        waiting = {one.request.key: one for one in self._forget(job, used)}
        again: list[Job] = []
        for count, (key, reply) in enumerate(replies.items(), start=1):
            if (one := waiting.pop(key, None)) is not None:
                again += self._floor.deliver(key, reply, buyer=one if first else None)
            if count % RESULTS_PER_STEP == 0:
                await self._delivered()
                await asyncio.sleep(0)
        rest: list[Job] = []
        for key, one in waiting.items():
            rest += after_failure(self._lane, [one], errors.get(key) or unfinished(job.name, status))
        await self._serve_again(rest)
        await self._floor.serve(again)

    async def _serve_again(self, rows: list[Job]) -> None:
        """Has rows answered by the ledger, or asked in whichever way is right for them now.

        They are served as if they were new, and whoever waits for the same reply goes on waiting for it.
        """
        for job in rows:
            if not job.request.rest:
                request = self._lane.teacher.compile(job.prompt, sample=job.request.sample)
                assert request is not None, "a teacher that has batch jobs answers every row"
                job.request = request
        await self._floor.serve_again(rows)


def batch_lane(lane: Lane) -> BatchLane | None:
    """The batch part of a lane; None where its teacher's provider has no jobs."""
    teacher = lane.teacher
    service = getattr(teacher, "batches", None)
    if service is None or not getattr(teacher, "endpoint", None) or not getattr(teacher, "model", None):
        return None
    return BatchLane(lane, service, getattr(teacher, "batch", None))
