"""When a lane may send its next request: its limit in flight, budgets and quotas, and pauses that servers ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from distill.labeling.engine.budget import Purse
from distill.labeling.engine.jobs import Floor
from distill.labeling.engine.learned_limits import learned_limit
from distill.labeling.engine.limits import Limiter
from distill.labeling.engine.progress import TeacherTally
from distill.labeling.teacher import Teacher


class Gate:
    """Says how many requests may go, and calls when more may.

    Args:
        teacher: Who is asked.
        floor: What the lanes share.
        tally: Counts of the lane, in which waits are noted.
        wake: Called when more may go than when it was last asked.
        spent: Called with the reason when nothing more may ever go.
    """

    def __init__(
        self,
        teacher: Teacher,
        floor: Floor,
        *,
        tally: TeacherTally,
        wake: Callable[[], None],
        spent: Callable[[str], None],
    ) -> None:
        self._teacher = teacher
        self._floor = floor
        self._tally = tally
        self._wake = wake
        self._spent = spent
        self._timers: dict[str, asyncio.Task[None]] = {}
        self.limiter = self._limiter()
        own_usd, quota = getattr(teacher, "budget_usd", None), getattr(teacher, "quota", None)
        self.purse = Purse(floor.budget.part(f"teachers.{teacher.name}", own_usd, quota=quota))

    @property
    def server(self) -> tuple[str, str] | None:
        """Endpoint and model, by which the limit found is kept; None where the teacher does not name them."""
        endpoint, model = getattr(self._teacher, "endpoint", None), getattr(self._teacher, "model", None)
        return (endpoint, model) if endpoint and model else None

    def room(self, now_s: float) -> int:
        """How many more requests may go now. Where it is none for a while, ``wake`` is called when it is over."""
        room = self.limiter.room(now_s)
        return min(room, self._purse_room(now_s)) if room > 0 and self.purse.limited else room

    def pause(self, seconds: float, *, cause: str) -> None:
        """Lets nothing go for a while, as the server asks."""
        now_s = self._floor.timing.clock()
        if now_s + seconds > self.limiter.paused_until_s:
            self._floor.note(self._teacher.name, "pause", seconds=round(seconds, 3), cause=cause)
        self.limiter.pause(seconds, now_s)
        if "pause" not in self._timers:
            self._timers["pause"] = self._floor.spawn(self._resume())

    def close(self) -> None:
        """Waits for nothing any more. Else a run would end only when the last pause that a server asked for is over."""
        for timer in self._timers.values():
            timer.cancel()

    def _limiter(self) -> Limiter:
        if rows := getattr(self._teacher, "batch_rows", None):
            return Limiter(fixed=2 * rows)
        concurrency = self._floor.config.concurrency
        if concurrency != "auto":
            return Limiter(fixed=concurrency, ceiling=self._teacher.max_concurrency)
        learned = None
        if self.server is not None:
            learned = learned_limit(self._floor.ledger, endpoint=self.server[0], model=self.server[1])
        return Limiter(ceiling=self._teacher.max_concurrency, learned=learned)

    def _purse_room(self, now_s: float) -> int:
        admission = self.purse.admits(now_s)
        if admission == "go":
            room = self.purse.room(now_s)
            return self.limiter.limit if room is None else room
        if admission == "stop":
            self._spent(self.purse.exhausted_text())
        elif admission == "later" and "quota" not in self._timers:
            self._timers["quota"] = self._floor.spawn(self._go_on_later(self.purse.wait_s(now_s)))
        return 0

    async def _go_on_later(self, seconds: float) -> None:
        """Waits for a quota a minute."""
        name = self.purse.slowest(self._floor.timing.clock())
        waited_s = self._tally.quota_waits.get(name, 0.0)
        if not waited_s:
            self._floor.note(self._teacher.name, "quota", quota=name, wait_s=round(seconds, 3))
        await self._floor.timing.sleep(seconds)
        self._tally.quota_waits[name] = waited_s + seconds
        del self._timers["quota"]
        self._wake()

    async def _resume(self) -> None:
        while (left_s := self.limiter.paused_until_s - self._floor.timing.clock()) > 0:
            await self._floor.timing.sleep(left_s)
        del self._timers["pause"]
        self._wake()
