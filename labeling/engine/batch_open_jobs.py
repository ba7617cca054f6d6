"""The provider batch jobs that a lane follows: its own, and those that earlier runs and other processes left open."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any

from distill.labeling.engine.batch_config import BatchConfig
from distill.labeling.engine.batch_job import ProviderJob
from distill.labeling.engine.batch_journal import BatchJournal, OpenJob
from distill.labeling.engine.budget import Use
from distill.labeling.engine.jobs import Job
from distill.labeling.engine.progress import BatchProgress

if TYPE_CHECKING:
    from distill.labeling.engine.lane import Lane


class OpenJobs:
    """Keeps account of jobs: which key is in which, and what is set aside in the budget for them.

    Args:
        lane: The lane.
        journal: Where they are on record.
        config: How jobs are used.
    """

    def __init__(self, lane: Lane, journal: BatchJournal, config: BatchConfig) -> None:
        self.jobs: dict[str, ProviderJob] = {}
        self._lane = lane
        self._journal = journal
        self._config = config
        self._purse = lane.gate.purse
        self._of_key: dict[bytes, ProviderJob] = {}

    def holding(self, key: bytes) -> ProviderJob | None:
        """The job that a request is in."""
        return self._of_key.get(key)

    def watched(self) -> list[ProviderJob]:
        """Jobs that are to be looked at."""
        return [job for job in self.jobs.values() if job.watched]

    async def adopt(self, entry: OpenJob) -> ProviderJob:
        """Takes up a job that another run, or another process, has left open."""
        floor = self._lane.floor
        others = {lane.teacher.name for lane in floor.lanes} - {self._lane.teacher.name}
        keys = await asyncio.to_thread(self._journal.keys_of, entry.tag)
        now_s = floor.timing.clock()
        job = ProviderJob(
            entry=entry,
            keys=keys,
            ours=entry.source.teacher not in others,
            job_id=entry.job_id,
            next_look_s=now_s,
            tail_s=self.tail_s(now_s, age_s=max(0.0, time.time() - entry.created_s)),
        )
        self.follow(job)
        if job.ours:
            self.note(job, "adopted")
        return job

    def follow(self, job: ProviderJob) -> None:
        """Follows a job from now on."""
        self.jobs[job.tag] = job
        self._of_key |= dict.fromkeys(job.keys, job)
        if job.ours:
            self._purse.set_aside(job.entry.aside)

    def forget(self, job: ProviderJob, used: Use) -> list[Job]:
        """Follows a job no longer.

        Args:
            job: The job, which is over.
            used: What it has used, as far as it is this run's to count.

        Returns:
            The rows that waited for it.
        """
        del self.jobs[job.tag]
        for key in job.keys:
            self._of_key.pop(key, None)
        self._put_right(job, used)
        waiting, job.waiting = list(job.waiting.values()), {}
        return waiting

    def leave(self, job: ProviderJob) -> None:
        """Looks at a job no more. It will cost what was set aside for it, whoever takes the results."""
        job.waiting.clear()
        self._put_right(job, job.entry.aside)
        job.ours = False

    def tail_s(self, now_s: float, *, age_s: float = 0.0) -> float:
        """When a job of that age is to be cancelled, so that the rest can be asked live."""
        after_s = self._config.live_tail_after_s
        return math.inf if after_s is None or not self._config.live_tail else now_s + max(0.0, after_s - age_s)

    def progress(self, *, gathered: int) -> BatchProgress:
        """How they are getting on."""
        watched = self.watched()
        requests, done = sum(job.entry.requests for job in watched), sum(job.done for job in watched)
        return BatchProgress(len(watched), requests, done, gathered)

    def under_way(self) -> str:
        """Says in words that there are jobs to come back for."""
        jobs, requests, _, _ = self.progress(gathered=0)
        count = "1 batch job" if jobs == 1 else f"{jobs:,} batch jobs"
        return f"{count} with {requests:,} requests under way; the same command picks the answers up"

    def note(self, job: ProviderJob, what: str, **facts: Any) -> None:
        """Notes in the log that something happened to a job."""
        facts = {"job": job.name, "requests": job.entry.requests, **facts}
        self._lane.floor.note(self._lane.teacher.name, "batch", what=what, **facts)

    def _put_right(self, job: ProviderJob, used: Use) -> None:
        if job.ours:
            self._purse.put_right(job.entry.aside, used)
            if self._purse.limited:  # lanes that share the budget may have waited for it
                for lane in self._lane.floor.lanes:
                    lane.wake()
