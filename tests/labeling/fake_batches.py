"""A provider's batch jobs in memory, for tests of the engine's side. What it keeps outlives a run."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from distill.labeling.engine.batch_service import BatchResult, BatchState, BatchStatus
from distill.labeling.errors import TeacherError
from distill.labeling.teacher import Reply, Request


@dataclass
class FakeJob:
    tag: str
    requests: list[Request]
    looks: int = 0
    cancelled: bool = False
    state: BatchState = "running"
    error: TeacherError | None = None


@dataclass
class FakeBatches:
    """Answers ``exact``; a job is over at the second look.

    Attributes:
        sent: How often each key was submitted.
        ends: How the next jobs end, one each: a state, or an error with which the job as a whole fails.
        over_after: At which look a job is over.
        share: Which part of an expired or cancelled job was finished.
        errors: What is raised instead: by the name of the method, one call each.
        after_submit: Raised once a job has been taken, so that the caller does not hear of it.
        steps: By item, what the next requests about it get: a text, or an error.
        hidden_for: For how many calls ``find`` does not see a job.
    """

    most_requests: int = 50
    most_bytes: int = 10_000_000
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    sent: Counter[bytes] = field(default_factory=Counter)
    ends: list[Any] = field(default_factory=list)
    over_after: int = 2
    share: float = 0.5
    errors: dict[str, list[BaseException]] = field(default_factory=dict)
    after_submit: list[BaseException] = field(default_factory=list)
    steps: dict[str, list[Any]] = field(default_factory=dict)
    hidden_for: int = 0
    finds: int = 0
    most_open: int = 0

    async def submit(self, requests: Sequence[Request], *, tag: str) -> str:
        self._meet("submit")
        await asyncio.sleep(0)
        assert requests and all(request.body for request in requests)
        assert tag not in {job.tag for job in self.jobs.values()}
        self.sent.update(request.key for request in requests)
        job_id = f"job-{len(self.jobs)}"
        self.jobs[job_id] = FakeJob(tag, list(requests))
        self.most_open = max(self.most_open, sum(job.state == "running" for job in self.jobs.values()))
        if self.after_submit:
            raise self.after_submit.pop(0)
        return job_id

    async def find(self, tag: str) -> str | None:
        self._meet("find")
        self.finds += 1
        if self.finds <= self.hidden_for:
            return None
        return next((job_id for job_id, job in self.jobs.items() if job.tag == tag), None)

    async def status(self, job_id: str) -> BatchStatus:
        self._meet("status")
        job = self.jobs[job_id]
        job.looks += 1
        if job.state == "running" and job.looks >= self.over_after:
            end = self.ends.pop(0) if self.ends else "ended"
            job.state, job.error = ("failed", end) if isinstance(end, TeacherError) else (end, None)
        if job.cancelled and job.state == "running":
            job.state = "cancelled"
        done = len(self._finished(job))
        return BatchStatus(job.state, done, str(job.error) if job.error else None, job.error)

    async def results(self, job_id: str) -> AsyncIterator[BatchResult]:
        self._meet("results")
        for request in self._finished(self.jobs[job_id]):
            yield BatchResult(request.key, self._answer(request))

    async def cancel(self, job_id: str) -> None:
        self._meet("cancel")
        self.jobs[job_id].cancelled = True

    def estimate_usd(self, request: Request) -> float:
        return 0.1

    def _finished(self, job: FakeJob) -> list[Request]:
        if job.state == "failed":
            return []
        whole = job.state == "ended"
        return job.requests if whole else job.requests[: int(len(job.requests) * self.share)]

    def _answer(self, request: Request) -> Reply | TeacherError:
        text = json.loads(request.body)["messages"][1][1]
        step: Any = '{"label": "exact"}'
        for word, steps in self.steps.items():
            if f"{word}\n" in text and steps:
                step = steps.pop(0)
        if isinstance(step, TeacherError):
            return step
        return Reply(json.dumps({"text": step, "finish": "stop"}), cost_usd=0.125)

    def _meet(self, method: str) -> None:
        if self.errors.get(method):
            raise self.errors[method].pop(0)
