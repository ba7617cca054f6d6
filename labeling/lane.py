"""A lane: one teacher's part of a labeling run, from rows to votes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import polars as pl

from distill.labeling.budget import Use
from distill.labeling.distributions import answer_of_probs, answer_of_samples
from distill.labeling.errors import DataError, LedgerError, RateLimitError, TeacherError, TeacherTimeoutError
from distill.labeling.gate import Gate
from distill.labeling.jobs import Floor, Job
from distill.labeling.labeling_events import LimitWatch
from distill.labeling.ledger import Source
from distill.labeling.limits import backoff_s
from distill.labeling.parsing import Answer, AnswerError, parse_answer
from distill.labeling.progress import Speedometer, TeacherProgress, TeacherTally, facts_of, snapshot
from distill.labeling.row_order import together
from distill.labeling.teacher import Completion, Reply, Teacher
from distill.labeling.vote import Outcome, Vote

_ROWS_PER_STEP = 256
_ANSWERS_REMEMBERED = 4096
_LONGEST_REMEMBERED_CHARS = 200
_AT_RISK_PER_SLOT = 2
_LONGEST_PAUSE_S = 900.0
_MAX_REASON_CHARS = 500
# Where a server does not count tokens, over the tokenizers in use.
_CHARS_PER_TOKEN = 3.5


class Lane:
    """One teacher's part of a run: its queue, its workers, its limit, its counts.

    Args:
        teacher: Who is asked.
        floor: What it shares with the other lanes.
        total: Rows × samples to come; None where that is not known.
    """

    def __init__(self, teacher: Teacher, floor: Floor, *, total: int | None = None) -> None:
        self.teacher = teacher
        self.free = bool(getattr(teacher, "free", False))
        self.floor = floor
        self.total = total
        self.tally = TeacherTally()
        self.budget_spent = False
        config = floor.config
        self.gate = Gate(teacher, floor, tally=self.tally, wake=self.wake, spent=self._spent)
        self.limiter = self.gate.limiter
        self._purse = self.gate.purse
        self._limit_watch = LimitWatch(self.limiter.limit)
        self._prompter = floor.prompter(teacher.answer)
        self._guideline_version = floor.task.guideline.version if floor.task.guideline else None
        self._queue: deque[Job] = deque()
        self._workers: list[asyncio.Task[None]] = []
        self._parked: deque[asyncio.Future[None]] = deque()
        self._unkept: deque[tuple[Job, asyncio.Future[Reply]]] = deque()
        self._bought = asyncio.Event()
        self._answers: dict[str, Answer] = {}
        self._backing_off: dict[Job, asyncio.Task[None]] = {}
        self._open = 0
        self._ended = asyncio.Event()
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
        self.floor.note(self.teacher.name, "started", limit=self.limiter.limit, rows=self.total)
        columns = self._prompter.columns
        keeper = self.floor.spawn(self._use_kept())
        async for batch in batches:
            if missing := [name for name in columns if name not in batch.columns]:
                raise DataError(f"rows: the task needs the columns {missing}, got {batch.columns}; correct task.inputs")
            table = batch.select(columns)
            if not self.floor.in_order:
                table = together(table, self.floor.task)
            for start in range(0, table.height, _ROWS_PER_STEP):
                await self._until_open(2 * _ROWS_PER_STEP + 2 * _AT_RISK_PER_SLOT * self.limiter.limit)
                await delivered()
                jobs = self._compile(table.slice(start, _ROWS_PER_STEP).rows(named=True))
                await self.floor.serve(jobs)
                await asyncio.sleep(0)
        await self._until_open(0)
        for task in (*self._workers, keeper):
            task.cancel()
        self.gate.close()
        self.floor.note(self.teacher.name, "ended", **facts_of(self.tally), limit=self.limiter.limit)

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
                except Exception as error:
                    self._emit(
                        Vote(
                            row_id=row["row_id"],
                            teacher=self.teacher.name,
                            family=self.teacher.family,
                            outcome="failed",
                            sample=sample,
                            reason=repr(error),
                            cause="error",
                        )
                    )
                    continue
                if request is None:
                    reason = f"no recorded reply for row {row['row_id']}"
                    vote = Vote(row["row_id"], self.teacher.name, self.teacher.family, "unsent", sample, reason)
                    vote.cause = "no_reply"
                    self._emit(vote)
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
        spare = min(len(self._queue), self._room(now_s))
        while spare > 0 and self._parked:
            worker = self._parked.popleft()
            if not worker.done():
                worker.set_result(None)
                spare -= 1
        for _ in range(min(spare, self.limiter.limit - len(self._workers))):
            self._workers.append(self.floor.spawn(self._work()))

    async def _work(self) -> None:
        while True:
            job = self._take()
            if job is None:
                if self._unkept:
                    self.floor.ledger.hurry()
                place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._parked.append(place)
                await place
                continue
            await self._ask(job)
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
        at_risk = self.limiter.in_flight + len(self._unkept)
        bearable = _AT_RISK_PER_SLOT * self.limiter.limit - at_risk
        return min(self.gate.room(now_s), bearable) if bearable > 0 else 0

    def _take(self) -> Job | None:
        if not self._queue or self._room(self.floor.timing.clock()) <= 0:
            return None
        return self._queue.popleft()

    async def _ask(self, job: Job) -> None:
        """Sends a request and hands its reply to the ledger; deals with whatever happens instead."""
        timing = self.floor.timing
        began_s = timing.clock()
        ticket = self.limiter.take(began_s)
        reserved = self._purse.reserve(began_s)
        used = Use(1.0)
        self.tally.requests_sent += 1
        job.asked = True
        settled = False
        try:
            reply = await self.teacher.ask(job.request)
            now_s = timing.clock()
            self._keep(job, reply)
            used = self._pay(job, reply)
            settled = True
            self.limiter.answered(now_s - began_s, now_s)
            if 0 < reply.quiet_s <= _LONGEST_PAUSE_S:
                self.gate.pause(reply.quiet_s, cause="minute_quota")
        except LedgerError:
            raise
        except TeacherError as error:
            settled = True
            self._failed(job, error, ticket)
        except Exception as error:  # one row's surprise must not end the run
            self.floor.give_up(job, "failed", repr(error), cause="error")
        finally:
            if not settled:
                self.limiter.failed()
            self._purse.settle(reserved, used, timing.clock())

    def _keep(self, job: Job, reply: Reply) -> None:
        request = job.request
        if self.free:
            kept: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            kept.set_result(reply)
        else:
            source = Source(request.endpoint, request.model, self.teacher.name)
            kept = self.floor.ledger.put_soon(request.key, reply, source=source)
        self._unkept.append((job, kept))
        self._bought.set()

    async def _use_kept(self) -> None:
        """Uses each reply once it is durable, in the order in which they came, which is that of the commits."""
        try:
            while True:
                while not self._unkept:
                    self._bought.clear()
                    await self._bought.wait()
                job, kept = self._unkept[0]
                reply = await kept
                self._unkept.popleft()
                if again := self.floor.deliver(job.request.key, reply, buyer=job):
                    await self.floor.serve(again)
                if self._parked:
                    self.wake()
        finally:
            # Nobody waits any more; the ledger writes them all the same. One that failed has been told of already.
            for _, kept in self._unkept:
                if not kept.cancel() and not kept.cancelled():
                    kept.exception()

    def _failed(self, job: Job, error: TeacherError, ticket: int) -> None:
        now_s = self.floor.timing.clock()
        retry_after_s = error.retry_after_s if isinstance(error, RateLimitError) else None
        if isinstance(error, RateLimitError | TeacherTimeoutError):
            self.limiter.rejected(ticket, now_s)
            if retry_after_s is not None:
                self.gate.pause(retry_after_s, cause=error.cause)
        else:
            self.limiter.failed()
        job.failures += 1
        text = f"{type(error).__name__}: {error}"[:_MAX_REASON_CHARS]
        job.so_far = ("failed", text, error.cause)
        if error.stops_teacher:
            self.stop(text, error.cause)
        elif retry_after_s is not None and retry_after_s > _LONGEST_PAUSE_S:
            self.stop(f"{text}; it asks to wait {retry_after_s:.0f} s: run the same command again then", error.cause)
        if self.tally.stopped is not None or not error.retryable or job.failures > self.floor.config.retries:
            self.floor.give_up(job, "failed", text, cause=error.cause)
            return
        self.tally.retries[error.cause] += 1
        if retry_after_s is not None:
            self.queue_up(job, first=True)
        else:
            self._backing_off[job] = self.floor.spawn(self._retry(job))

    async def _retry(self, job: Job) -> None:
        await self.floor.timing.sleep(backoff_s(job.failures - 1, self.floor.timing.uniform))
        del self._backing_off[job]
        self.queue_up(job, first=True)

    def _pay(self, job: Job, reply: Reply) -> Use:
        tokens = self._tokens(job, reply.completion or self.teacher.read(reply)) if self._purse.limited else 0.0
        self._purse.learn(tokens=tokens, usd=reply.cost_usd or 0.0)
        if reply.cost_usd is None:
            self.tally.unpriced += 1
        else:
            self.tally.cost_usd += reply.cost_usd
        return Use(1.0, tokens, reply.cost_usd or 0.0)

    def _tokens(self, job: Job, completion: Completion) -> float:
        """Tokens that an answer took, by its length where the server does not count them."""
        read, written = completion.input_tokens, completion.output_tokens
        asked_chars = len(job.prompt.system) + len(job.prompt.user)
        return (asked_chars / _CHARS_PER_TOKEN if read is None else read) + (
            len(completion.text) / _CHARS_PER_TOKEN if written is None else written
        )

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
        queued, self._queue = list(self._queue), deque()
        for job in (*backing_off, *queued):
            self._end_unasked(job)

    def _spent(self, reason: str) -> None:
        self.budget_spent = True
        self.stop(reason, "budget")

    def _end_unasked(self, job: Job) -> None:
        stopped = f"the teacher was stopped: {self.tally.stopped}"
        outcome, reason, cause = job.so_far or ("unsent", stopped, self.tally.stop_cause or "paused")
        self.floor.give_up(job, outcome, reason, cause=cause)

    def _watch(self, went_wrong: bool, reason: str | None) -> None:
        """Stops the lane when too many of the last rows asked came to nothing."""
        stop = self.floor.config.stop_after_failures
        if stop is None:
            return
        self._recent.append(went_wrong)
        wrong = sum(self._recent)
        if went_wrong and len(self._recent) == stop.of_last and wrong >= stop.fraction * stop.of_last:
            self.stop(
                f"{wrong} of the last {stop.of_last} rows asked failed or did not fit, the last one with: {reason}",
                "failing",
            )

    # Answers

    def receive(self, job: Job, reply: Reply, *, bought: bool) -> bool:
        """Reads a reply and ends the job, or turns it into the next question.

        Returns:
            Whether the job is to be served again.
        """
        try:
            completion = (reply.completion if bought else None) or self.teacher.read(reply)
            self._count(job, reply, completion, bought=bought)
            vote = self._judge(job, completion)
        except Exception as error:  # one row's surprise must not end the run
            reason = f"the reply cannot be read: {type(error).__name__}: {error}"
            cause = error.cause if isinstance(error, TeacherError) else "error"
            vote = self._vote(job, "failed", reason[:_MAX_REASON_CHARS], cause)
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
            if reply.cost_usd is not None and self._purse.limited:
                self._purse.learn(tokens=self._tokens(job, completion), usd=reply.cost_usd)

    def _judge(self, job: Job, completion: Completion) -> Vote | None:
        """Makes a vote of a completion; None where the job is to be asked again."""
        if completion.finish == "filtered":
            return self._vote(job, "filtered", _quoted("the provider withheld the answer", completion.text), "filtered")
        if completion.finish == "refused":
            return self._vote(job, "refused", _quoted("the model declined", completion.text), "refused")
        try:
            answer = self._answer(completion)
        except AnswerError as error:
            return self._misfit(job, completion, str(error)[:_MAX_REASON_CHARS])
        if answer.label is None:
            vote = self._vote(job, "abstained", "the teacher said that it cannot tell", "abstained")
        else:
            vote = self._vote(job, "labeled")
            vote.label, vote.probs, vote.probs_source = answer.label, answer.probs, answer.probs_source
            vote.probs_clipped = completion.probs_clipped
        vote.trace, vote.clauses = answer.trace or completion.reasoning, answer.clauses
        if vote.trace is not None:
            vote.trace_order = self.teacher.answer.trace_order if answer.trace else "before"
        return vote

    def _answer(self, completion: Completion) -> Answer:
        """The answer in a completion: the distribution that came with it, else what its text says."""
        if completion.probs is not None:
            return answer_of_probs(completion, task=self.floor.task)
        if completion.others:
            return answer_of_samples(completion, task=self.floor.task, answer=self.teacher.answer)
        return self._answers.get(completion.text) or self._parse(completion.text)

    def _parse(self, text: str) -> Answer:
        """Reads an answer, and remembers it where it is short: most teachers write the same few again and again."""
        answer = parse_answer(text, task=self.floor.task, answer=self.teacher.answer)
        if len(text) <= _LONGEST_REMEMBERED_CHARS and len(self._answers) < _ANSWERS_REMEMBERED:
            self._answers[text] = answer
        return answer

    def _misfit(self, job: Job, completion: Completion, problem: str) -> Vote | None:
        if completion.finish == "length":
            tokens = f" ({completion.output_tokens} tokens)" if completion.output_tokens is not None else ""
            return self._vote(job, "invalid", f"truncated at max_tokens{tokens}, raise it: {problem}", "truncated")
        if job.reasks >= self.floor.config.reasks:
            return self._vote(job, "invalid", problem, "misfit")
        prompt = self._prompter.again(job.prompt, text=completion.text, problem=problem)
        request = self.teacher.compile(prompt, sample=job.request.sample)
        if request is None or request.key == job.request.key:  # a recorded teacher can say nothing else
            return self._vote(job, "invalid", problem, "misfit")
        job.prompt, job.request = prompt, request
        job.reasks, job.failures, job.so_far = job.reasks + 1, 0, ("invalid", problem, "misfit")
        self.tally.reasks += 1
        return None

    def end(self, job: Job, outcome: Outcome, reason: str, *, cause: str) -> None:
        """Ends a job without a label."""
        self._finish(job, self._vote(job, outcome, reason, cause))

    def _vote(self, job: Job, outcome: Outcome, reason: str | None = None, cause: str | None = None) -> Vote:
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
            cause=cause,
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
        )


def _plus(total: float | None, more: float | None) -> Any:
    return more if total is None else total if more is None else total + more


def _quoted(reason: str, text: str) -> str:
    return f"{reason}: {text.strip()[:200]}" if text.strip() else reason
