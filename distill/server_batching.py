"""Rows of many requests, predicted together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from distill.server_errors import ServeError
from distill.server_wire import Row

Predict = Callable[[pl.DataFrame], pl.DataFrame]
_RATE_MEMORY = 0.8


class BatchLimits(NamedTuple):
    """How rows are gathered.

    Attributes:
        rows: Rows predicted at once, unless one request has more.
        wait_s: How long the first of them waits for others while nothing is being predicted, if there lately were any.
        queued_rows: Rows that may wait; a request that would make them more is refused.
    """

    rows: int = 64
    wait_s: float = 0.002
    queued_rows: int = 4096


@dataclass(eq=False)
class _Job:
    rows: Sequence[Row]
    result: asyncio.Future[list[dict[str, Any]]]
    came: float = field(default_factory=time.monotonic)


class Batcher:
    """Gathers rows for one student and predicts them on a thread, so that the event loop never waits for a student.

    While a batch is predicted the next one gathers, so that batches grow with the load. Where the last batch was of
    several requests, the next one waits ``wait_s`` for as many; one client that asks and waits never waits for others.

    Args:
        predict: Takes a table with ``row_id`` and the inputs, gives ``lines`` lines a row in their order.
        executor: One thread, which students may share: each uses all cores by itself.
        limits: How rows are gathered.
        on_batch: Told of rows and seconds of every batch.
        lines: Lines that ``predict`` gives a row: one, or one for each part of a task of several.
    """

    def __init__(
        self,
        predict: Predict,
        executor: Executor,
        *,
        limits: BatchLimits,
        on_batch: Callable[[int, float], None] = lambda rows, seconds: None,
        lines: int = 1,
    ) -> None:
        self._predict = predict
        self._lines_per_row = lines
        self._executor = executor
        self._limits = limits
        self._on_batch = on_batch
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._rows_per_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._had_company = False
        self.waiting = 0

    def start(self) -> None:
        """Starts to predict; from within a running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends it. What still waits is refused; a batch that is being predicted is finished."""
        self._stopping = True
        while self._jobs:
            _fail(self._jobs.popleft(), ServeError(503, "the server is going down", code="shutting_down"))
        self._arrived.set()
        if self._task is not None:
            await self._task

    async def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Predicts rows together with those of others.

        Returns:
            The student's predictions, as many lines a row as it gives.

        Raises:
            ServeError: Too many rows wait (503 with ``Retry-After``), or the student failed on these (500).
        """
        if self._stopping:
            raise ServeError(503, "the server is going down", code="shutting_down")
        if self.waiting and self.waiting + len(rows) > self._limits.queued_rows:
            wait_s = max(1, math.ceil(self.waiting / self._rows_per_s)) if self._rows_per_s else 1
            raise ServeError(
                503,
                f"{self.waiting:,} rows wait already; try again in {wait_s} s",
                code="overloaded",
                retry_after_s=wait_s,
            )
        job = _Job(rows, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.waiting += len(rows)
        self._arrived.set()
        return await job.result

    async def _run(self) -> None:
        while not self._stopping:
            if jobs := await self._gather():
                await self._answer(jobs)

    async def _gather(self) -> list[_Job]:
        while not self._jobs:
            if self._stopping:
                return []
            self._arrived.clear()
            await self._arrived.wait()
        until = self._jobs[0].came + (self._limits.wait_s if self._had_company else 0.0)
        while self.waiting < self._limits.rows and (left := until - time.monotonic()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                break
        jobs: list[_Job] = []
        rows = 0
        while self._jobs and (not jobs or rows + len(self._jobs[0].rows) <= self._limits.rows):
            job = self._jobs.popleft()
            self.waiting -= len(job.rows)
            if not job.result.done():  # whoever asked may have gone
                jobs.append(job)
                rows += len(job.rows)
        self._had_company = len(jobs) > 1
        return jobs

    async def _answer(self, jobs: Sequence[_Job]) -> None:
        began = time.monotonic()
        rows = [row for job in jobs for row in job.rows]
        try:
            lines = await self._in_thread(rows)
        except Exception as error:
            if len(jobs) == 1:
                _fail(jobs[0], error)
                return
            for job in jobs:  # one bad row must not fail the rows beside it
                await self._answer([job])
            return
        seconds = time.monotonic() - began
        self._on_batch(len(rows), seconds)
        rate = len(rows) / max(seconds, 1e-6)
        self._rows_per_s = rate if not self._rows_per_s else _RATE_MEMORY * self._rows_per_s + (1 - _RATE_MEMORY) * rate
        start = 0
        for job in jobs:
            if not job.result.done():
                job.result.set_result(lines[start : start + len(job.rows) * self._lines_per_row])
            start += len(job.rows) * self._lines_per_row

    async def _in_thread(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._lines, rows)

    def _lines(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        table = pl.DataFrame(
            {"row_id": [str(place) for place in range(len(rows))], **columns},
            schema=dict.fromkeys(("row_id", *columns), pl.String),
        )
        return self._predict(table).to_dicts()


def _fail(job: _Job, error: Exception) -> None:
    if not job.result.done():
        job.result.set_exception(error)
