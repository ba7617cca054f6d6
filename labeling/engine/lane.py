"""A lane: one teacher's part of a labeling run, from rows to votes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import polars as pl

from distill.labeling.engine.batch_lane import batch_lane
from distill.labeling.engine.budget import Use
from distill.labeling.engine.events import LimitWatch
from distill.labeling.engine.failure_watch import FailureWatch
from distill.labeling.engine.gate import Gate
from distill.labeling.engine.job_maker import ROWS_PER_STEP, JobMaker
from distill.labeling.engine.jobs import Errand, Floor, Job, Pack
from distill.labeling.engine.judge import Judge
from distill.labeling.engine.limits import backoff_s
from distill.labeling.engine.progress import Speedometer, TeacherProgress, TeacherTally, facts_of, snapshot
from distill.labeling.engine.reply_counts import ReplyCounts
from distill.labeling.engine.reply_reader import ReplyReader
from distill.labeling.engine.unkept import UnkeptReplies
from distill.labeling.engine.waiting import Waiting
from distill.labeling.errors import LedgerError, RateLimitError, TeacherError, TeacherTimeoutError
from distill.labeling.prompts.option_tree import tree_of
from distill.labeling.prompts.packs import Packing
from distill.labeling.teacher import Part, Reply, Teacher
from distill.labeling.vote import Outcome, Vote, parts_of, reason_of

_AT_RISK_PER_SLOT = 2
_LONGEST_PAUSE_S = 900.0
# A server that refuses the first packs that it is sent refuses all of them: the format, or their length.
_PACKS_REFUSED = 3


class Lane:
    """One teacher's part of a run: its queue, its workers, its limit, its counts.

    Args:
        teacher: Who is asked.
        floor: What it shares with the other lanes.
        total: Rows × samples to come; None where that is not known.
        checks: Rows to come that are there to be asked alone beside others: only a lane that packs asks them.
    """

    def __init__(self, teacher: Teacher, floor: Floor, *, total: int | None = None, checks: int = 0) -> None:
        self.teacher = teacher
        self.free = bool(getattr(teacher, "free", False))
        self.floor = floor
        self.tally = TeacherTally()
        self.budget_spent = False
        config = floor.config
        self.gate = Gate(teacher, floor, tally=self.tally, wake=self.wake, spent=self.spent)
        self.limiter = self.gate.limiter
        self._purse = self.gate.purse
        self.batch = batch_lane(self)
        self._limit_watch = LimitWatch(self.limiter.limit)
        self._prompter = floor.prompter(teacher.answer)
        self._packing = Packing.of(teacher, self._prompter, config)
        self.total = None if total is None else total + (checks if self._packing else 0)
        self._parts = parts_of(floor.task)
        self._guideline_version = floor.task.guideline.version if floor.task.guideline else None
        self._judge = Judge(teacher, task=floor.task, prompter=self._prompter, reasks=config.reasks, tally=self.tally)
        self._counts = ReplyCounts(teacher, tally=self.tally, purse=self._purse)
        self._reader = ReplyReader(
            teacher, ledger=floor.ledger, packing=self._packing, judge=self._judge, counts=self._counts
        )
        self._waiting = Waiting(self._packing)
        self._packs_refused = 0
        self._to_ask_alone: list[Job] = []
        self._fed = False
        self._workers: list[asyncio.Task[None]] = []
        self._parked: deque[asyncio.Future[None]] = deque()
        self._unkept = UnkeptReplies(floor.ledger, teacher=teacher.name, free=self.free)
        self._maker = JobMaker(self, prompter=self._prompter, packing=self._packing, tree=tree_of(teacher, floor.task))
        self._backing_off: dict[Errand, asyncio.Task[None]] = {}
        self._open = 0
        self._ended = asyncio.Event()
        self._failures = FailureWatch(config.stop_after_failures)
        self._speedometer = Speedometer()

    # Rows in

    async def feed(self, batches: AsyncIterator[pl.DataFrame], delivered: Callable[[], Awaitable[None]]) -> None:
        """Takes every row through to its outcome.

        Args:
            batches: Tables of rows, with ``row_id`` and the task's inputs.
            delivered: Waits while votes pile up unwritten.

        Raises:
            DataError: A column is missing.
        """
        self.floor.note(self.teacher.name, "started", limit=self.limiter.limit, rows=self.total)
        keepers = [self.floor.spawn(self._use_kept())]
        if self.batch is not None and (keeper := await self.batch.start(delivered)) is not None:
            keepers.append(keeper)
        rows_each = self._packing.most if self._packing else 1
        async for batch in batches:
            for step in self._maker.steps(batch):
                await self._until_open((2 * ROWS_PER_STEP + 2 * _AT_RISK_PER_SLOT * self.limiter.limit) * rows_each)
                await delivered()
                await self.floor.serve(self._begin(step))
                await self._serve_alone()
                await asyncio.sleep(0)
        self._fed = True
        self._ask_alone(self._waiting.release())
        self.wake()
        if self.batch is not None:
            self.batch.rows_ended()
            await self.batch.looked_at_all()
        await self._until_open(0)
        for task in (*self._workers, *keepers):
            task.cancel()
        self.gate.close()
        self.floor.note(self.teacher.name, "ended", **facts_of(self.tally), limit=self.limiter.limit)

    def _begin(self, step: Iterable[Job | Vote]) -> list[Job]:
        """Counts rows as open, and ends those that cannot be asked; the jobs of the others."""
        jobs = []
        for made in step:
            self._open += 1
            if isinstance(made, Vote):
                self._emit(made)
            else:
                jobs.append(made)
        return jobs

    def queue_up(self, job: Job) -> None:
        """Queues a job to be asked, live or by batch, or ends it where the lane has stopped."""
        if self.batch is not None and self.batch.takes(job):
            return
        if self.tally.stopped is not None:
            self._end_unasked(job)
            return
        if job.reasks or job.failures or job.latency_s is not None:
            self._waiting.add_first(job)
        elif self._packs_refused >= _PACKS_REFUSED and job.key is job.row_key:
            self._ask_alone([job])
        else:
            self._ask_alone(self._waiting.add(job))
            if self._fed:
                self._ask_alone(self._waiting.release())
        self.wake()

    def _queue_again(self, errand: Errand) -> None:
        if self.tally.stopped is not None:
            self._end_unasked(errand)
            return
        self._waiting.add_first(errand)
        self.wake()

    def _ask_alone(self, jobs: Sequence[Job]) -> None:
        """Has rows that found no company asked by their own requests, which the ledger may hold."""
        self._to_ask_alone += self.floor.apart(jobs)
        if self._fed and self._to_ask_alone:
            self.floor.spawn(self._serve_alone())

    async def _serve_alone(self) -> None:
        while self._to_ask_alone:
            jobs, self._to_ask_alone = self._to_ask_alone, []
            await self.floor.serve(jobs)

    async def _until_open(self, most: int) -> None:
        while self._open > (self.batch.room(most) if self.batch is not None and most else most):
            if self.batch is not None:
                self.batch.flush()
            self._ended.clear()
            await self._ended.wait()

    def feed_on(self) -> None:
        """Has it looked again whether there is room for further rows."""
        self._ended.set()

    # Asking

    def wake(self) -> None:
        """Puts as many workers to work as there are jobs and room."""
        if self.batch is not None:
            self.batch.wake()
        if not self._waiting:
            return
        now_s = self.floor.timing.clock()
        spare = min(len(self._waiting), self._room(now_s))
        while spare > 0 and self._parked:
            worker = self._parked.popleft()
            if not worker.done():
                worker.set_result(None)
                spare -= 1
        for _ in range(min(spare, self.limiter.limit - len(self._workers))):
            self._workers.append(self.floor.spawn(self._work()))

    async def _work(self) -> None:
        while True:
            errand = self._take()
            if errand is None:
                if self._unkept:
                    self.floor.ledger.hurry()
                place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._parked.append(place)
                await place
                continue
            if split := await self._ask(errand):
                await self.floor.serve(split)
            if self._parked or len(self._workers) < self.limiter.limit:
                self.wake()
            if self._purse.limited:
                for lane in self.floor.lanes:
                    lane.wake()

    def _room(self, now_s: float) -> int:
        """How many more requests may go now.

        A slot is free again when its answer is there, before the answer is durable: a disk that takes 20 ms would
        otherwise hold up a server that takes 50. What has been sent and is not yet durable, which is what a kill can
        lose, stays within twice the limit.
        """
        self._purse.rows = self._waiting.rows
        at_risk = self.limiter.in_flight + len(self._unkept)
        bearable = _AT_RISK_PER_SLOT * self.limiter.limit - at_risk
        return min(self.gate.room(now_s), bearable) if bearable > 0 else 0

    def _take(self) -> Errand | None:
        if not self._waiting or self._room(self.floor.timing.clock()) <= 0:
            return None
        return self._waiting.take()

    async def _ask(self, errand: Errand) -> list[Job]:
        """Sends a request and hands its reply to the ledger; deals with whatever happens instead.

        Returns:
            Jobs to be served again, each by its own request: what asked about all of them was refused.
        """
        again: list[Job] = []
        if isinstance(errand, Pack) and errand.request is None:
            again = self._write(errand)
        if (request := errand.request) is None:
            return again
        timing = self.floor.timing
        began_s = timing.clock()
        ticket = self.limiter.take(began_s)
        reserved = self._purse.reserve(began_s, rows=len(errand.members))
        used = Use(1.0)
        self.tally.requests_sent += 1
        for job in errand.members:
            job.asked = True
        settled = False
        try:
            reply = await self.teacher.ask(request)
            now_s = timing.clock()
            self._unkept.add(errand, request, reply)
            used = self._counts.pay(errand, reply)
            settled = True
            self.limiter.answered(now_s - began_s, now_s)
            if 0 < reply.quiet_s <= _LONGEST_PAUSE_S:
                self.gate.pause(reply.quiet_s, cause="minute_quota")
        except LedgerError:
            raise
        except TeacherError as error:
            settled = True
            again = self._failed(errand, error, ticket)
        except Exception as error:  # one row's surprise must not end the run
            self._give_up(errand, "failed", repr(error), cause="error")
        finally:
            if not settled:
                self.limiter.failed()
            self._purse.settle(reserved, used, timing.clock())
        return again

    def _write(self, pack: Pack) -> list[Job]:
        """Writes the request of a pack; where that cannot be done its rows end, or are returned to be asked alone."""
        assert self._packing is not None, "it made the pack"
        prompts = [job.prompt for job in pack.members]
        try:
            pack.request = self._packing.request(prompts, sample=pack.members[0].request.sample)
        except Exception as error:  # as where a single one cannot be written
            self._give_up(pack, "failed", repr(error), cause="error")
            return []
        return [] if pack.request else self.floor.apart(pack.members)

    async def _use_kept(self) -> None:
        """Uses each reply once it is durable, in the order in which they came, which is that of the commits."""
        try:
            while True:
                errand, reply = await self._unkept.first_durable()
                if again := self._deliver(errand, reply):
                    await self.floor.serve(again)
                if self._parked:
                    self.wake()
        finally:
            self._unkept.forsake()

    def _deliver(self, errand: Errand, reply: Reply) -> list[Job]:
        if isinstance(errand, Job):
            return self.floor.deliver(errand.key, reply, buyer=errand)
        assert errand.request is not None, "it was sent"
        self.tally.packs += 1
        self._packs_refused = 0
        again = []
        for place, job in enumerate(errand.members):
            part = Part(place, len(errand.members), errand.request.key)
            again += self.floor.deliver(job.key, replace(reply, part=part), buyer=job)
        return again

    def _failed(self, errand: Errand, error: TeacherError, ticket: int) -> list[Job]:
        now_s = self.floor.timing.clock()
        retry_after_s = error.retry_after_s if isinstance(error, RateLimitError) else None
        if isinstance(error, RateLimitError | TeacherTimeoutError):
            self.limiter.rejected(ticket, now_s)
            if retry_after_s is not None:
                self.gate.pause(retry_after_s, cause=error.cause)
        else:
            self.limiter.failed()
        errand.failures += 1
        text = reason_of(error)
        errand.so_far = ("failed", text, error.cause)
        if error.stops_teacher:
            self.stop(text, error.cause)
        elif retry_after_s is not None and retry_after_s > _LONGEST_PAUSE_S:
            self.stop(f"{text}; it asks to wait {retry_after_s:.0f} s: run the same command again then", error.cause)
        if self.tally.stopped is None and isinstance(errand, Pack) and not error.retryable:
            return self._split(errand, text)
        if self.tally.stopped is not None or not error.retryable or errand.failures > self.floor.config.retries:
            self._give_up(errand, "failed", text, cause=error.cause)
            return []
        self.tally.retries[error.cause] += 1
        if retry_after_s is not None:
            self._queue_again(errand)
        else:
            self._backing_off[errand] = self.floor.spawn(self._retry(errand))
        return []

    def _split(self, pack: Pack, reason: str) -> list[Job]:
        """Takes a pack apart that was refused: one row may be to blame, or the server takes no packs at all."""
        self._packs_refused += 1
        if self._packs_refused == _PACKS_REFUSED:
            self.floor.note(self.teacher.name, "alone", reason=reason)
        self.tally.asked_alone += len(pack.members)
        return self.floor.apart(pack.members)

    async def _retry(self, errand: Errand) -> None:
        await self.floor.timing.sleep(backoff_s(errand.failures - 1, self.floor.timing.uniform))
        del self._backing_off[errand]
        self._queue_again(errand)

    def _give_up(self, errand: Errand, outcome: Outcome, reason: str, *, cause: str) -> None:
        for job in errand.members:
            self.floor.give_up(job, outcome, reason, cause=cause)

    # Stopping

    def stop(self, reason: str, cause: str = "paused") -> None:
        """Sends nothing more. What is queued, and every row to come that the ledger cannot answer, ends as unsent."""
        if self.tally.stopped is not None:
            return
        self.tally.stopped, self.tally.stop_cause = reason, cause
        self.floor.note(self.teacher.name, "stopped", cause=cause, reason=reason)
        backing_off, self._backing_off = self._backing_off, {}
        for retry in backing_off.values():
            retry.cancel()
        gathered = [] if self.batch is None else self.batch.let_go()
        for errand in (*backing_off, *self._waiting.drain(), *gathered):
            self._end_unasked(errand)

    def spent(self, reason: str) -> None:
        """Stops, since a budget bears nothing more."""
        self.budget_spent = True
        self.stop(reason, "budget")

    def _end_unasked(self, errand: Errand) -> None:
        # The end of a server's log may follow, which every row need not repeat.
        stopped = f"the teacher was stopped: {(self.tally.stopped or '').partition(chr(10))[0]}"
        outcome, reason, cause = errand.so_far or ("unsent", stopped, self.tally.stop_cause or "paused")
        self._give_up(errand, outcome, reason, cause=cause)

    # Answers

    def receive(self, job: Job, reply: Reply, *, bought: bool) -> bool:
        """Reads a reply and ends the job, or turns it into the next question.

        Returns:
            Whether the job is to be served again.
        """
        vote = self._reader(job, reply, bought=bought)
        if vote is None:
            return True
        self._finish(job, vote)
        return False

    def end(self, job: Job, outcome: Outcome, reason: str, *, cause: str) -> None:
        """Ends a job without a label."""
        self._finish(job, self._judge.vote(job, outcome, reason, cause))

    def _finish(self, job: Job, vote: Vote) -> None:
        self._emit(vote)
        if job.asked and (reason := self._failures.note(vote.outcome in ("failed", "invalid"), vote.reason)):
            self.stop(reason, "failing")

    def _emit(self, vote: Vote) -> None:
        vote.guideline_version = self._guideline_version
        vote.parts = vote.parts or self._parts
        self.tally.outcomes[vote.outcome] += 1
        self._open -= 1
        self._ended.set()
        self.floor.emit(vote)
        if self.floor.watch is not None and (reason := self.floor.watch(vote)):
            self.stop(reason)

    # Progress

    def progress(self) -> TeacherProgress:
        """How the lane is getting on."""
        now_s = self.floor.timing.clock()
        limit = self.tally.limit = self.limiter.limit
        if (before := self._limit_watch.changed(limit)) is not None:
            self.floor.note(self.teacher.name, "limit", limit=limit, before=before)
        speeds = self._speedometer.rates(self.tally, now_s)
        left = None if self.total is None else self.total - self.tally.done
        return TeacherProgress(
            name=self.teacher.name,
            total=self.total,
            tally=snapshot(self.tally),
            in_flight=self.limiter.in_flight,
            rows_per_s=speeds.rows,
            tokens_per_s=speeds.tokens,
            left_s=None if left is None else left / speeds.rows if speeds.rows else None,
            forecast_usd=None if left is None else self.tally.cost_usd + left * speeds.usd_per_row,
            paused_s=max(0.0, self.limiter.paused_until_s - now_s),
            batch=None if self.batch is None else self.batch.progress(),
        )
