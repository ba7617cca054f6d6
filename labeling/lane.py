"""A lane: one teacher's part of a labeling run, from rows to votes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import polars as pl

from distill.labeling.budget import Budget, Purse
from distill.labeling.errors import DataError, LedgerError, RateLimitError, TeacherError, TeacherTimeoutError
from distill.labeling.jobs import Floor, Job
from distill.labeling.ledger import Source
from distill.labeling.limits import Limiter, backoff_s
from distill.labeling.parsing import AnswerError, parse_answer
from distill.labeling.progress import Speedometer, TeacherProgress, TeacherTally, snapshot
from distill.labeling.teacher import Completion, Reply, Teacher
from distill.labeling.vote import Outcome, Vote

_ROWS_PER_STEP = 128
_LONGEST_PAUSE_S = 900.0
_MAX_REASON_CHARS = 500


class Lane:
    """One teacher's part of a run: its queue, its workers, its limit, its counts.

    Args:
        teacher: Who is asked.
        floor: What it shares with the other lanes.
        total: Rows × samples to come; None where that is not known.
    """

    def __init__(self, teacher: Teacher, floor: Floor, *, total: int | None = None) -> None:
        self.teacher = teacher
        self.floor = floor
        self.total = total
        self.tally = TeacherTally()
        self.budget_spent = False
        config = floor.config
        fixed = None if config.concurrency == "auto" else config.concurrency
        self.limiter = Limiter(fixed=fixed, ceiling=teacher.max_concurrency)
        own_usd = getattr(teacher, "budget_usd", None)
        self._purse = Purse(Budget(own_usd, within=floor.budget, name=f"teachers.{teacher.name}.budget_usd"))
        self._prompter = floor.prompter(teacher.answer)
        self._guideline_version = floor.task.guideline.version if floor.task.guideline else None
        self._queue: deque[Job] = deque()
        self._workers: list[asyncio.Task[None]] = []
        self._parked: deque[asyncio.Future[None]] = deque()
        self._open = 0
        self._ended = asyncio.Event()
        self._resuming = False
        stop = config.stop_after_failures
        self._recent: deque[bool] = deque(maxlen=stop.of_last if stop else 1)
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
        columns = self._prompter.columns
        async for batch in batches:
            if missing := [name for name in columns if name not in batch.columns]:
                raise DataError(f"rows: the task needs the columns {missing}, got {batch.columns}; correct task.inputs")
            table = batch.select(columns)
            for start in range(0, table.height, _ROWS_PER_STEP):
                await self._until_open(max(4 * _ROWS_PER_STEP, 2 * self.limiter.limit))
                await delivered()
                jobs = self._compile(table.slice(start, _ROWS_PER_STEP).rows(named=True))
                await self.floor.serve(jobs)
                await asyncio.sleep(0)
        await self._until_open(0)
        for worker in self._workers:
            worker.cancel()

    def _compile(self, rows: Sequence[Mapping[str, Any]]) -> list[Job]:
        jobs = []
        for row in rows:
            for sample in range(self.floor.config.samples):
                self._open += 1
                try:
                    prompt = self._prompter(row)
                    if prompt.cut and not sample:
                        self.tally.cut_rows += 1
                        self.tally.cut_fields.update(prompt.cut)
                    request = self.teacher.compile(prompt, sample=sample)
                    if request is not None:
                        _ = request.key
                except Exception as error:
                    self._emit(
                        Vote(row["row_id"], self.teacher.name, self.teacher.family, "failed", sample, repr(error))
                    )
                    continue
                if request is None:
                    reason = f"no recorded reply for row {row['row_id']}"
                    self._emit(Vote(row["row_id"], self.teacher.name, self.teacher.family, "unsent", sample, reason))
                else:
                    jobs.append(Job(self, prompt, request))
        return jobs

    def queue_up(self, job: Job, *, first: bool = False) -> None:
        """Queues a job to be asked, or ends it where the lane has stopped."""
        if self.tally.stopped is not None:
            self._end_unasked(job)
            return
        if first or job.reasks or job.failures:
            self._queue.appendleft(job)
        else:
            self._queue.append(job)
        self.wake()

    async def _until_open(self, most: int) -> None:
        while self._open > most:
            self._ended.clear()
            await self._ended.wait()

    # Asking

    def wake(self) -> None:
        """Puts as many workers to work as there are jobs and room."""
        if not self._queue:
            return
        now_s = self.floor.timing.clock()
        spare = min(len(self._queue), self.limiter.room(now_s))
        while spare > 0 and self._parked:
            worker = self._parked.popleft()
            if not worker.done():
                worker.set_result(None)
                spare -= 1
        for _ in range(min(spare, self.limiter.limit - len(self._workers))):
            self._workers.append(self.floor.spawn(self._work()))

    async def _resume(self) -> None:
        while (left_s := self.limiter.paused_until_s - self.floor.timing.clock()) > 0:
            await self.floor.timing.sleep(left_s)
        self._resuming = False
        self.wake()

    async def _work(self) -> None:
        while True:
            job = self._take()
            if job is None:
                place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._parked.append(place)
                await place
                continue
            reply = await self._ask(job)
            if reply is not None:
                again = self.floor.deliver(job.request.key, reply, buyer=job)
                if again:
                    await self.floor.serve(again)
            if self._parked or len(self._workers) < self.limiter.limit:
                self.wake()
            if self._purse.limited:
                for lane in self.floor.lanes:
                    lane.wake()

    def _take(self) -> Job | None:
        if not self._queue or self.limiter.room(self.floor.timing.clock()) <= 0:
            return None
        if self._purse.limited:
            admission = self._purse.admits()
            if admission == "stop":
                self.budget_spent = True
                self.stop(self._purse.exhausted_text())
            if admission != "go":
                return None
        return self._queue.popleft()

    async def _ask(self, job: Job) -> Reply | None:
        """Sends a request and makes its reply durable; deals with whatever happens instead."""
        timing = self.floor.timing
        began_s = timing.clock()
        ticket = self.limiter.take(began_s)
        reserved_usd = self._purse.reserve()
        paid_usd = 0.0
        self.tally.requests_sent += 1
        job.asked = True
        settled = False
        try:
            reply = await self.teacher.ask(job.request)
            latency_s = timing.clock() - began_s
            request = job.request
            source = Source(request.endpoint, str(request.payload.get("model", "")), self.teacher.name)
            # The slot is held until the reply is durable: what a kill can lose is never more than what was in flight.
            kept = await self.floor.ledger.put_soon(request.key, reply, source=source)
            paid_usd = self._pay(reply.cost_usd)
            settled = True
            self.limiter.answered(latency_s, timing.clock())
            return kept
        except LedgerError:
            raise
        except TeacherError as error:
            settled = True
            self._failed(job, error, ticket)
        except Exception as error:  # one row's surprise must not end the run
            self.floor.give_up(job, "failed", repr(error))
        finally:
            if not settled:
                self.limiter.failed()
            self._purse.settle(reserved_usd, paid_usd)
        return None

    def _failed(self, job: Job, error: TeacherError, ticket: int) -> None:
        now_s = self.floor.timing.clock()
        retry_after_s = error.retry_after_s if isinstance(error, RateLimitError) else None
        if isinstance(error, RateLimitError | TeacherTimeoutError):
            self.limiter.rejected(ticket, now_s, retry_after_s=retry_after_s)
            if retry_after_s is not None and not self._resuming:
                self._resuming = True
                self.floor.spawn(self._resume())
        else:
            self.limiter.failed()
        job.failures += 1
        text = f"{type(error).__name__}: {error}"[:_MAX_REASON_CHARS]
        job.so_far = ("failed", text)
        if error.stops_teacher:
            self.stop(text)
        elif retry_after_s is not None and retry_after_s > _LONGEST_PAUSE_S:
            self.stop(f"{text}; it asks to wait {retry_after_s:.0f} s: run the same command again then")
        if self.tally.stopped is not None or not error.retryable or job.failures > self.floor.config.retries:
            self.floor.give_up(job, "failed", text)
            return
        self.tally.retries[type(error).__name__] += 1
        if retry_after_s is not None:
            self.queue_up(job, first=True)
        else:
            self.floor.spawn(self._retry(job))

    async def _retry(self, job: Job) -> None:
        await self.floor.timing.sleep(backoff_s(job.failures - 1, self.floor.timing.uniform))
        self.queue_up(job, first=True)

    def _pay(self, cost_usd: float | None) -> float:
        self._purse.learn(cost_usd or 0.0)
        if cost_usd is None:
            self.tally.unpriced += 1
            return 0.0
        self.tally.cost_usd += cost_usd
        return cost_usd

    # Stopping

    def stop(self, reason: str) -> None:
        """Sends nothing more. What is queued, and every row to come that the ledger cannot answer, ends as unsent."""
        if self.tally.stopped is not None:
            return
        self.tally.stopped = reason
        queued, self._queue = list(self._queue), deque()
        for job in queued:
            self._end_unasked(job)

    def _end_unasked(self, job: Job) -> None:
        outcome, reason = job.so_far or ("unsent", f"the teacher was stopped: {self.tally.stopped}")
        self.floor.give_up(job, outcome, reason)

    def _watch(self, went_wrong: bool, reason: str | None) -> None:
        """Stops the lane when too many of the last rows asked came to nothing."""
        stop = self.floor.config.stop_after_failures
        if stop is None:
            return
        self._recent.append(went_wrong)
        wrong = sum(self._recent)
        if went_wrong and len(self._recent) == stop.of_last and wrong >= stop.fraction * stop.of_last:
            self.stop(
                f"{wrong} of the last {stop.of_last} rows asked failed or did not fit, the last one with: {reason}"
            )

    # Answers

    def receive(self, job: Job, reply: Reply, *, bought: bool) -> bool:
        """Reads a reply and ends the job, or turns it into the next question.

        Returns:
            Whether the job is to be served again.
        """
        try:
            completion = self.teacher.read(reply)
            self._count(job, reply, completion, bought=bought)
            vote = self._judge(job, completion)
        except Exception as error:  # one row's surprise must not end the run
            reason = f"the reply cannot be read: {type(error).__name__}: {error}"
            vote = self._vote(job, "failed", reason[:_MAX_REASON_CHARS])
        if vote is None:
            return True
        self._finish(job, vote)
        return False

    def _count(self, job: Job, reply: Reply, completion: Completion, *, bought: bool) -> None:
        job.latency_s = reply.latency_s
        job.cost_usd = _plus(job.cost_usd, reply.cost_usd)
        job.input_tokens = _plus(job.input_tokens, completion.input_tokens)
        job.output_tokens = _plus(job.output_tokens, completion.output_tokens)
        if bought:
            job.bought = True
            self.tally.input_tokens += completion.input_tokens or 0
            self.tally.output_tokens += completion.output_tokens or 0
        else:
            self.tally.ledger_hits += 1
            if reply.cost_usd is not None:
                self._purse.learn(reply.cost_usd)

    def _judge(self, job: Job, completion: Completion) -> Vote | None:
        """Makes a vote of a completion; None where the job is to be asked again."""
        if completion.finish == "filtered":
            return self._vote(job, "filtered", _quoted("the provider withheld the answer", completion.text))
        if completion.finish == "refused":
            return self._vote(job, "refused", _quoted("the model declined", completion.text))
        try:
            answer = parse_answer(completion.text, task=self.floor.task, answer=self.teacher.answer)
        except AnswerError as error:
            return self._misfit(job, completion, str(error)[:_MAX_REASON_CHARS])
        if answer.label is None:
            vote = self._vote(job, "abstained", "the teacher said that it cannot tell")
        else:
            vote = self._vote(job, "labeled", None)
            vote.label, vote.probs, vote.probs_source = answer.label, answer.probs, answer.probs_source
        vote.trace, vote.clauses = answer.trace or completion.reasoning, answer.clauses
        return vote

    def _misfit(self, job: Job, completion: Completion, problem: str) -> Vote | None:
        if completion.finish == "length":
            tokens = f" ({completion.output_tokens} tokens)" if completion.output_tokens is not None else ""
            return self._vote(job, "invalid", f"truncated at max_tokens{tokens}, raise it: {problem}")
        if job.reasks >= self.floor.config.reasks:
            return self._vote(job, "invalid", problem)
        prompt = self._prompter.again(job.prompt, text=completion.text, problem=problem)
        request = self.teacher.compile(prompt, sample=job.request.sample)
        if request is None or request.key == job.request.key:  # a recorded teacher can say nothing else
            return self._vote(job, "invalid", problem)
        job.prompt, job.request = prompt, request
        job.reasks, job.failures, job.so_far = job.reasks + 1, 0, ("invalid", problem)
        self.tally.reasks += 1
        return None

    def end(self, job: Job, outcome: Outcome, reason: str) -> None:
        """Ends a job without a label."""
        self._finish(job, self._vote(job, outcome, reason))

    def _vote(self, job: Job, outcome: Outcome, reason: str | None) -> Vote:
        answered = job.latency_s is not None
        return Vote(
            row_id=job.prompt.row_id,
            teacher=self.teacher.name,
            family=self.teacher.family,
            outcome=outcome,
            sample=job.request.sample,
            reason=reason,
            input_tokens=job.input_tokens,
            output_tokens=job.output_tokens,
            cost_usd=job.cost_usd,
            latency_s=job.latency_s,
            from_ledger=answered and not job.bought,
            key=job.request.key.hex(),
            guideline_version=self._guideline_version,
        )

    def _finish(self, job: Job, vote: Vote) -> None:
        self._emit(vote)
        if job.asked:
            self._watch(vote.outcome in ("failed", "invalid"), vote.reason)

    def _emit(self, vote: Vote) -> None:
        vote.guideline_version = self._guideline_version
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
        self.tally.limit = self.limiter.limit
        return TeacherProgress(
            name=self.teacher.name,
            total=self.total,
            tally=snapshot(self.tally),
            in_flight=self.limiter.in_flight,
            rows_per_s=self._speedometer.rate(self.tally.done, now_s),
            paused_s=max(0.0, self.limiter.paused_until_s - now_s),
        )


def _plus(total: float | None, more: float | None) -> Any:
    return more if total is None else total if more is None else total + more


def _quoted(reason: str, text: str) -> str:
    return f"{reason}: {text.strip()[:200]}" if text.strip() else reason
