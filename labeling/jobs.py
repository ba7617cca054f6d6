"""What the lanes of a labeling run share: jobs, and who waits for which reply."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distill.labeling.budget import Budget
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.labeling_events import LabelingEvent, LabelingEventKind
from distill.labeling.ledger import Ledger
from distill.labeling.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat, Prompt, Reply, Request
from distill.labeling.vote import Outcome, Vote

if TYPE_CHECKING:
    from distill.labeling.lane import Lane

PrompterOf = Callable[[AnswerFormat], Prompter]
Watch = Callable[[Vote], str | None]


@dataclass(frozen=True)
class Timing:
    """Clock, sleep and dice of a run, to be replaced in tests."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.uniform


@dataclass(slots=True, eq=False)
class Job:
    """One row × sample that a lane is to end in an outcome.

    Attributes:
        lane: The lane.
        prompt: The question, with what was wrong with earlier answers.
        request: The question as the provider sees it.
        failures: How often this request failed.
        reasks: How often the teacher was asked again because an answer did not fit.
        asked: Whether anything was sent for it in this run.
        so_far: How it ends when it is not sent again: outcome, reason and cause of what went wrong last.
        bought: Whether a reply was bought for it in this run.
        latency_s: Of the last reply.
        cost_usd: Summed over its replies, as far as known; tokens likewise.
        input_tokens: See ``cost_usd``.
        output_tokens: See ``cost_usd``.
    """

    lane: Lane
    prompt: Prompt
    request: Request
    failures: int = 0
    reasks: int = 0
    asked: bool = False
    so_far: tuple[Outcome, str, str] | None = None
    bought: bool = False
    latency_s: float | None = None
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class Floor:
    """What the lanes of a run share.

    Attributes:
        task: What is asked.
        config: How teachers are asked.
        ledger: Where replies are kept.
        timing: Clock, sleep and dice.
        budget: What the run may use.
        emit: Takes a finished vote.
        prompter: Makes the prompter of an answer format.
        watch: Looks at each vote as it ends, and says why its teacher is to be paused; None where it is not.
        spawn: Starts a task that ends with the run.
        lanes: Every lane.
        pending: Jobs that wait for the same reply, by key; the first asks for it.
        events: What happened since progress was last reported.
        began_s: When the run began, by the clock.
        in_order: Whether rows come in the order in which they are to be asked.
    """

    task: Task
    config: LabelingConfig
    ledger: Ledger
    timing: Timing
    budget: Budget
    emit: Callable[[Vote], None]
    prompter: PrompterOf
    watch: Watch | None
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    lanes: list[Lane] = field(default_factory=list)
    pending: dict[bytes, list[Job]] = field(default_factory=dict)
    events: list[LabelingEvent] = field(default_factory=list)
    began_s: float = 0.0
    in_order: bool = False

    def note(self, teacher: str, kind: LabelingEventKind, **facts: Any) -> None:
        """Notes that something happened."""
        self.events.append(LabelingEvent(round(self.timing.clock() - self.began_s, 3), teacher, kind, facts))

    async def serve(self, jobs: Sequence[Job]) -> None:
        """Ends jobs whose replies the ledger holds, and queues the others.

        Keys are noted as pending before they are looked up: a reply that arrives in between is not missed.
        """
        while jobs:
            leaders = [job for job in jobs if self._leads(job)]
            found = await self.ledger.fetch([job.request.key for job in leaders if not job.lane.free])
            again: list[Job] = []
            for job in leaders:
                reply = found.get(job.request.key)
                if reply is None:
                    job.lane.queue_up(job)
                else:
                    again += self.deliver(job.request.key, reply)
            jobs = again

    def deliver(self, key: bytes, reply: Reply, *, buyer: Job | None = None) -> list[Job]:
        """Gives a durable reply to every job that waits for it.

        Returns:
            Jobs whose answer did not fit, with the next question to be served.
        """
        waiting = self.pending.pop(key)
        return [job for job in waiting if job.lane.receive(job, reply, bought=job is buyer)]

    def give_up(self, leader: Job, outcome: Outcome, reason: str, *, cause: str) -> None:
        """Ends every job of a lane that waits for a reply which will not come.

        Jobs of other lanes ask for themselves: what stopped this lane need not stop them.
        """
        for job in self.pending.pop(leader.request.key):
            if job.lane is leader.lane:
                job.lane.end(job, outcome, reason, cause=cause)
            elif self._leads(job):
                job.lane.queue_up(job)

    def _leads(self, job: Job) -> bool:
        waiting = self.pending.setdefault(job.request.key, [])
        waiting.append(job)
        return len(waiting) == 1
