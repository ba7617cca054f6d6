"""The engine: asks teachers about rows, and ends every row × teacher × sample in one outcome."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal, cast

import polars as pl

from distill.labeling.engine.bridge import Bridge, Stream
from distill.labeling.engine.budget import Budget
from distill.labeling.engine.events import LabelingEvent
from distill.labeling.engine.jobs import Floor, PrompterOf, Timing, Watch
from distill.labeling.engine.lane import Lane
from distill.labeling.engine.learned_lanes import Settled, keep_lane, settled_lane
from distill.labeling.engine.learned_limits import keep_limits
from distill.labeling.engine.progress import LabelingResult, Progress, snapshot
from distill.labeling.errors import LedgerError, TeacherError, UsageError
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import ProbingTeacher, Teacher
from distill.labeling.vote import Vote, votes_frame

_VOTES_PER_FRAME = 2048
_FRAMES_AHEAD = 4
_PROGRESS_EVERY_S = 0.25

OnVotes = Callable[[pl.DataFrame], None]
OnProgress = Callable[[Progress], None]


def ask_teachers(
    batches: Iterable[pl.DataFrame],
    *,
    task: Task,
    teachers: Sequence[Teacher],
    ledger: Ledger,
    config: LabelingConfig,
    on_votes: OnVotes,
    on_progress: OnProgress | None = None,
) -> LabelingResult:
    """Asks every teacher about every row.

    Teachers run at the same time, each with its own queue and its own limit. A reply is in the ledger before it is
    read; what the ledger holds is not asked again; requests that are the same are asked once. No row can end the run:
    whatever goes wrong with one is its outcome. Callbacks are called in the caller's thread, one at a time.

    Votes come in the order in which they end, which is not that of the rows and differs from run to run: sort by
    ``row_id``, ``teacher`` and ``sample`` where the same bytes are wanted.

    Args:
        batches: Tables of rows, with ``row_id`` and the task's inputs (text, never null). Every row given is asked;
            choosing splits is the caller's. An iterable that can be iterated afresh is gone through by each teacher at
            its own pace; with a one-shot iterator the fast wait for the slow. Only a few batches are held at a time.
            Where it has a ``height``, the number of rows in all, progress says what is left. Each table is asked in
            the order of its first input, unless it has ``in_order`` and that is true.
        task: What is asked.
        teachers: Who is asked; names are unique.
        ledger: Where replies are kept.
        config: How they are asked.
        on_votes: Takes votes, a few thousand at a time, as tables with the columns of ``VOTE_SCHEMA``.
        on_progress: Takes a :class:`~distill.labeling.engine.progress.Progress` four times a second, and once at the
            end.

    Returns:
        Counts per teacher, whose outcomes add up to rows × samples. ``stopped`` says whether a budget ended it.

    Raises:
        UsageError: Two teachers share a name, or there is none.
        LedgerWriteError: An answer could not be made durable. Votes of what was read before have been handed over.
        KeyboardInterrupt: Ctrl-C: nothing more was sent, and what was answered is in the ledger.
    """
    run = LabelingRun(task=task, teachers=teachers, ledger=ledger, config=config)
    return run.run(batches, on_votes=on_votes, on_progress=on_progress)


class LabelingRun:
    """One run of the engine; :func:`ask_teachers` is the way in.

    Args:
        task: What is asked.
        teachers: Who is asked.
        ledger: Where replies are kept.
        config: How they are asked.
        timing: Clock, sleep and dice.
        prompter: Makes the prompter of an answer format; the plain one of the task where none is given.
        watch: Looks at each vote as it ends, in the engine's thread, and says why its teacher is to be paused.
    """

    def __init__(
        self,
        *,
        task: Task,
        teachers: Sequence[Teacher],
        ledger: Ledger,
        config: LabelingConfig,
        timing: Timing | None = None,
        prompter: PrompterOf | None = None,
        watch: Watch | None = None,
    ) -> None:
        names = [teacher.name for teacher in teachers]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"teachers: got the names {names}; give at least one, each with a name of its own")
        self._task = task
        self._teachers = teachers
        self._ledger = ledger
        self._config = config
        self._timing = timing or Timing()
        self._prompter = prompter or (lambda answer: Prompter(task, answer, row_tokens=config.row_tokens))
        self._watch = watch
        self._bridge = Bridge()
        self._votes: list[Vote] = []
        self._events: list[LabelingEvent] = []
        self._handed_over: deque[asyncio.Future[None]] = deque()

    def run(
        self,
        batches: Iterable[pl.DataFrame],
        *,
        on_votes: OnVotes,
        on_progress: OnProgress | None = None,
        budget: Budget | None = None,
    ) -> LabelingResult:
        """Asks; see :func:`ask_teachers`. A budget is given where several runs use one."""
        self._budget = budget or Budget(self._config.budget_usd, quota=self._config.quota)
        self._on_votes = on_votes
        self._on_progress = on_progress
        self._began_s = self._timing.clock()
        return self._bridge.run(lambda: self._main(batches))

    async def _main(self, batches: Iterable[pl.DataFrame]) -> LabelingResult:
        listed = isinstance(batches, list | tuple)
        rows = sum(batch.height for batch in batches) if listed else getattr(batches, "height", None)
        checks = getattr(batches, "checks", 0)
        total = None if rows is None else (rows - checks) * self._config.samples
        lanes: list[Lane] = []
        try:
            async with _opened(self._teachers, self._ledger) as refusals, asyncio.TaskGroup() as group:
                floor = self._floor(group, in_order=getattr(batches, "in_order", False))
                floor.lanes = lanes = [Lane(teacher, floor, total=total, checks=checks) for teacher in self._teachers]
                for lane in lanes:
                    if reason := refusals.get(lane.teacher.name):
                        lane.stop(*reason)
                reporter = group.create_task(self._keep_reporting(lanes))
                stream = Stream(batches, readers=len(lanes), bridge=self._bridge)
                async with asyncio.TaskGroup() as feeders:
                    for number, lane in enumerate(lanes):
                        feeders.create_task(lane.feed(stream.read(number), self._delivered))
                reporter.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            await self._wind_up()
            await self._keep_limits(lanes)
        await self._report(lanes)
        return LabelingResult(
            teachers={lane.teacher.name: snapshot(lane.tally) for lane in lanes},
            stopped=_stopped(lanes),
            elapsed_s=self._timing.clock() - self._began_s,
        )

    def _floor(self, group: asyncio.TaskGroup, *, in_order: bool) -> Floor:
        return Floor(
            task=self._task,
            config=self._config,
            ledger=self._ledger,
            timing=self._timing,
            budget=self._budget,
            emit=self._emit,
            prompter=self._prompter,
            watch=self._watch,
            spawn=group.create_task,
            events=self._events,
            began_s=self._began_s,
            in_order=in_order,
        )

    # Votes and progress out

    def _emit(self, vote: Vote) -> None:
        self._votes.append(vote)
        if len(self._votes) >= _VOTES_PER_FRAME:
            self._hand_over()

    def _hand_over(self) -> None:
        votes, self._votes = self._votes, []
        self._handed_over.append(self._bridge.submit(lambda: self._on_votes(votes_frame(votes))))

    async def _delivered(self) -> None:
        """Waits while tables of votes pile up: the caller writes slower than teachers answer."""
        while self._handed_over and (len(self._handed_over) > _FRAMES_AHEAD or self._handed_over[0].done()):
            await self._handed_over[0]
            # Another lane may have waited for the same one.
            if self._handed_over and self._handed_over[0].done():
                self._handed_over.popleft()

    async def _wind_up(self) -> None:
        """Hands over what has ended, and waits until what was answered is durable; also after an error or Ctrl-C."""
        with suppress(LedgerError):  # it has been raised where the answer was bought
            await asyncio.to_thread(self._ledger.flush)
        if self._votes:
            self._hand_over()
        ends = await asyncio.gather(*self._handed_over, return_exceptions=True)
        if failure := next((end for end in ends if end is not None), None):
            raise failure

    async def _keep_limits(self, lanes: Sequence[Lane]) -> None:
        """Keeps what was learned of the servers; a ledger that cannot be written has been complained of before."""
        learned = {lane.gate.server: lane.limiter.learned for lane in lanes}
        if limits := {server: limit for server, limit in learned.items() if server and limit}:
            with suppress(LedgerError):
                await asyncio.to_thread(keep_limits, self._ledger, limits)

    async def _report(self, lanes: Sequence[Lane]) -> None:
        states = tuple(lane.progress() for lane in lanes)
        events, self._events[:] = tuple(self._events), []
        if self._on_progress is not None:
            elapsed_s = self._timing.clock() - self._began_s
            await self._bridge.submit(self._on_progress, Progress(elapsed_s, states, events))

    async def _keep_reporting(self, lanes: Sequence[Lane]) -> None:
        while True:
            await self._report(lanes)
            await asyncio.sleep(_PROGRESS_EVERY_S)


@asynccontextmanager
async def _opened(teachers: Sequence[Teacher], ledger: Ledger) -> AsyncIterator[dict[str, tuple[str, str]]]:
    """Opens teachers and settles their lanes, all at the same time, and closes those that opened.

    Some start a server, which takes minutes: the run begins when the slowest is up.

    Yields:
        Reason and cause, by name, for those that could not be opened.
    """
    refusals: dict[str, tuple[str, str]] = {}
    opened: list[Teacher] = []

    async def open_one(teacher: Teacher) -> None:
        try:
            await teacher.open()
            opened.append(teacher)
            await settle(teacher, ledger)
        except TeacherError as error:
            refusals[teacher.name] = (f"{type(error).__name__}: {error}", error.cause)

    try:
        async with asyncio.TaskGroup() as opening:
            for teacher in teachers:
                opening.create_task(open_one(teacher))
        yield refusals
    finally:
        # Each to its end, whatever goes wrong with another: what was started must not be left behind.
        ends = await asyncio.gather(*(teacher.close() for teacher in opened), return_exceptions=True)
        if failure := next((end for end in ends if end is not None), None):
            raise failure


async def settle(teacher: Teacher, ledger: Ledger) -> str | None:
    """Has an open teacher find out what its server does, and keeps the lane that it settles on.

    Returns:
        The lane; None for a teacher that has only one.

    Raises:
        TeacherError: Its server cannot be reached and no lane is known from an earlier run, or it ignores what it is
            asked to hold to.
    """
    if (probe := getattr(teacher, "probe", None)) is None:
        return None
    asking = cast(ProbingTeacher, teacher)
    server = {"endpoint": asking.endpoint, "model": asking.model, "teacher": teacher.name}
    before = settled_lane(ledger, **server)
    known = False
    if before is not None:
        # Before anything can fail: a teacher that stands on a lane only needs to see whether it still bears.
        with suppress(TeacherError):  # the recipe now asks for a lane that it did not have then
            asking.settle(before.found, kept=before.lane)
            known = True
    try:
        found = await probe()
    except TeacherError as error:
        if before is None or not known or not error.retryable:
            raise
        # Rows that the ledger answers need no server, and the others are retried like any.
        return before.lane
    lane = asking.settle(found, kept=before.lane if before else None)
    if before != (now := Settled(lane, found)):
        await asyncio.to_thread(keep_lane, ledger, now, **server)
    return lane


def _stopped(lanes: Sequence[Lane]) -> Literal["budget", "in_batch"] | None:
    if any(lane.budget_spent for lane in lanes):
        return "budget"
    return "in_batch" if any(lane.batch is not None and lane.batch.left for lane in lanes) else None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the run: the ledger's where there is one, since others follow from it."""
    flat: list[BaseException] = []
    nested: list[BaseException] = [errors]
    while nested:
        error = nested.pop(0)
        if isinstance(error, BaseExceptionGroup):
            nested += error.exceptions
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, LedgerError)), flat[0])
