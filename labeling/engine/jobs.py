"""What the lanes of a labeling run share: jobs, and who waits for which reply."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distill.labeling.engine.budget import Budget
from distill.labeling.engine.events import LabelingEvent, LabelingEventKind
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.ledger.pointers import Pointer
from distill.labeling.prompts.option_tree import Walk
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import AnswerFormat, Part, Prompt, Reply, Request
from distill.labeling.vote import Outcome, Vote

if TYPE_CHECKING:
    from distill.labeling.engine.lane import Lane

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
        request: The question as the provider sees it, where the row is asked about alone.
        row_key: What the ledger knows the row by where it may be asked about with others; None where it may not.
        alone: Whether it is asked about alone although it might have had company.
        failures: How often this request failed.
        reasks: How often the teacher was asked again because an answer did not fit.
        asked: Whether anything was sent for it in this run.
        so_far: How it ends when it is not sent again: outcome, reason and cause of what went wrong last.
        bought: Whether a reply was bought for it in this run.
        latency_s: Of the last reply.
        cost_usd: Summed over its replies, as far as known; tokens likewise.
        input_tokens: See ``cost_usd``.
        output_tokens: See ``cost_usd``.
        part: Of the last reply.
        walk: Where the labels are asked level by level, the questions so far.
    """

    lane: Lane
    prompt: Prompt
    request: Request
    row_key: bytes | None = None
    alone: bool = False
    failures: int = 0
    reasks: int = 0
    asked: bool = False
    so_far: tuple[Outcome, str, str] | None = None
    bought: bool = False
    latency_s: float | None = None
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    part: Part | None = None
    walk: Walk | None = None

    @property
    def key(self) -> bytes:
        """The key of what it waits for: of its request, or of the row where it is asked about with others."""
        return self.request.key if self.row_key is None or self.alone else self.row_key

    @property
    def members(self) -> tuple[Job, ...]:
        """The jobs that the request ends: this one."""
        return (self,)

    @property
    def pointers(self) -> tuple[Pointer, ...]:
        """What is to lead from the row to the reply: a row that found no company is not asked again when it finds it.

        A question that was put again has none: its first answer leads to it.
        """
        if self.row_key is None or self.prompt.turns:
            return ()
        return (Pointer(self.row_key, 0, 1),)


@dataclass(slots=True, eq=False)
class Pack:
    """Jobs of one lane that are asked about in one request.

    Attributes:
        members: The jobs, in the order in which their rows stand in the request.
        request: What is sent; written when it is.
        failures: As in :class:`Job`.
        so_far: As in :class:`Job`.
    """

    members: tuple[Job, ...]
    request: Request | None = None
    failures: int = 0
    so_far: tuple[Outcome, str, str] | None = None

    @property
    def pointers(self) -> tuple[Pointer, ...]:
        """What is to lead from each row to its part of the reply."""
        of = len(self.members)
        return tuple(Pointer(job.key, place, of) for place, job in enumerate(self.members))


Errand = Job | Pack
"""What a worker does at a time: one request."""


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
        await self.serve_again([job for job in jobs if self._leads(job)])

    async def serve_again(self, leaders: Sequence[Job]) -> None:
        """As :meth:`serve`, for jobs that others with the same request wait behind already."""
        while leaders:
            found = await self.ledger.fetch([job.key for job in leaders if not job.lane.free])
            again: list[Job] = []
            for job in leaders:
                reply = found.get(job.key)
                if reply is None:
                    job.lane.queue_up(job)
                else:
                    again += self.deliver(job.key, reply)
            leaders = [job for job in again if self._leads(job)]

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

        Args:
            leader: The job that asked for the reply.
            outcome: How they end.
            reason: Why, in words.
            cause: The same by name.
        """
        for job in self.pending.pop(leader.key):
            if job.lane is leader.lane:
                job.lane.end(job, outcome, reason, cause=cause)
            elif self._leads(job):
                job.lane.queue_up(job)

    def apart(self, leaders: Sequence[Job]) -> list[Job]:
        """Takes rows out of what they were to be asked about with; with every job that waits for one of them.

        Returns:
            The jobs, to be served again: each row by its own request.
        """
        waiting = [job for leader in leaders for job in self.pending.pop(leader.key)]
        for job in waiting:
            job.alone = True
        return waiting

    def _leads(self, job: Job) -> bool:
        waiting = self.pending.setdefault(job.key, [])
        waiting.append(job)
        return len(waiting) == 1
