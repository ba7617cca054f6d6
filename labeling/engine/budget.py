"""What a run and its teachers may use: requests, tokens and dollars, in all and a minute."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from distill.labeling.engine.pace import Pace
from distill.labeling.quota_config import QuotaConfig

Admission = Literal["go", "wait", "later", "stop"]


class Use(NamedTuple):
    """What a request uses, or a number of them."""

    requests: float = 0.0
    tokens: float = 0.0
    usd: float = 0.0


class Total:
    """A sum that may be used up, and what of it is used or set aside.

    Args:
        limit: The most that may be used.
        name: What to call it in messages.
        place: Its place in :class:`Use`.
    """

    def __init__(self, limit: float, *, name: str, place: int) -> None:
        self.limit = limit
        self.name = name
        self.place = place
        self.used = 0.0
        self.reserved = 0.0

    def bears(self, more: float) -> bool:
        """Whether more may be used, what is set aside counted as used. An empty one bears nothing, not even 0."""
        gone = self.used + self.reserved
        return gone < self.limit and gone + more <= self.limit

    def text(self, more: float) -> str:
        """Says in words that nothing more goes."""
        if self.place == Use._fields.index("usd"):
            gone = f"${self.used:.4f} of ${self.limit:.4f} is spent and the next request costs about ${more:.4f}"
        else:
            gone = f"{self.used:,.0f} of {self.limit:,.0f} are used and the next request takes about {more:,.0f}"
        return f"{self.name}: {gone}; raise it, or run the same command again to use as much once more"


class Budget:
    """What a teacher or a run may use.

    Args:
        usd: The most that may be spent in all; None is no limit.
        quota: Further limits; None is none.
        within: A larger budget that this one is a part of.
        name: The section of the recipe, for messages: ``labeling`` or ``teachers.x``.
    """

    def __init__(
        self,
        usd: float | None = None,
        *,
        quota: QuotaConfig | None = None,
        within: Budget | None = None,
        name: str = "labeling",
    ) -> None:
        quota = quota or QuotaConfig()
        self.within = within
        self.in_flight = 0
        self._parts: dict[str, Budget] = {}
        in_all = (("quota.requests", quota.requests), ("quota.tokens", quota.tokens), ("budget_usd", usd))
        a_minute = (
            ("quota.requests_per_minute", quota.requests_per_minute),
            ("quota.tokens_per_minute", quota.tokens_per_minute),
            ("quota.usd_per_minute", quota.usd_per_minute),
        )
        self.totals = [
            Total(limit, name=f"{name}.{key}", place=place)
            for place, (key, limit) in enumerate(in_all)
            if limit is not None
        ]
        self.paces = {
            place: Pace(limit, name=f"{name}.{key}", unit=0.0 if place else 1.0)
            for place, (key, limit) in enumerate(a_minute)
            if limit is not None
        }

    def part(self, name: str, usd: float | None, *, quota: QuotaConfig | None) -> Budget:
        """A teacher's part of it, the same one whenever it is asked for: what was used before stays used.

        Args:
            name: The section of the recipe, for messages.
            usd: As for a budget.
            quota: Likewise.
        """
        if name not in self._parts:
            self._parts[name] = Budget(usd, quota=quota, within=self, name=name)
        return self._parts[name]

    def chain(self) -> Iterator[Budget]:
        """This budget and those above it."""
        budget: Budget | None = self
        while budget is not None:
            yield budget
            budget = budget.within


class Purse:
    """Uses one teacher's budget, and with it the run's, also with many requests in flight.

    What a request costs is known only when it is answered. So the mean of what was used before is set aside when it is
    sent, and put right when the answer is there: a limit is missed by at most what the estimates were off for the
    requests then in flight.

    Args:
        budget: What may be used.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._totals = [(one, total) for one in budget.chain() for total in one.totals]
        self._paces = [(place, pace) for one in budget.chain() for place, pace in one.paces.items()]
        places = {total.place for _, total in self._totals} | {place for place, _ in self._paces}
        self._blind = bool(places - {0})  # something is limited that is known only from answers
        self.rows = 1
        """Rows that the next request asks about."""
        self._seen: dict[bool, tuple[float, Use]] = {}

    @property
    def limited(self) -> bool:
        """Whether there is a limit, its own or the run's."""
        return bool(self._totals or self._paces)

    @property
    def estimate(self) -> Use:
        """What the next request will probably use."""
        return self._estimate(self.rows)

    def _estimate(self, rows: int) -> Use:
        """Of requests of its kind, about one row or about several, the mean; of the others where there was none."""
        if not self._seen:
            return Use(1.0)
        count, seen = self._seen.get(rows > 1) or self._seen[rows == 1]
        return Use(1.0, seen.tokens * rows / count, seen.usd * rows / count)

    def admits(self, now_s: float) -> Admission:
        """Says whether one more request may go.

        Returns:
            ``go``; ``wait`` until requests in flight have shown what they use (the first of all goes alone);
            ``later``, in :meth:`wait_s` seconds; or ``stop``.
        """
        if self._blind and not self._seen and self._budget.in_flight:
            return "wait"
        if (exhausted := self._exhausted()) is not None:
            return "wait" if exhausted[0].in_flight else "stop"
        return "later" if self.wait_s(now_s) > 0 else "go"

    def wait_s(self, now_s: float) -> float:
        """Seconds until no quota a minute is in the way."""
        return max((pace.wait_s(self.estimate[place], now_s) for place, pace in self._paces), default=0.0)

    def slowest(self, now_s: float) -> str:
        """Name of the quota a minute that is waited for longest."""
        return max(self._paces, key=lambda item: item[1].wait_s(self.estimate[item[0]], now_s))[1].name

    def room(self, now_s: float) -> int | None:
        """How many requests the quotas a minute let go at once; None where they set no bound."""
        rooms = [pace.room(self.estimate[place], now_s) for place, pace in self._paces]
        return min((room for room in rooms if room is not None), default=None)

    @property
    def informed(self) -> bool:
        """Whether a reply has shown what a request uses."""
        return bool(self._seen)

    def left(self) -> Use:
        """What may still be used in all, what is set aside counted as used; infinite where nothing limits it."""
        least = [math.inf, math.inf, math.inf]
        for _, total in self._totals:
            least[total.place] = min(least[total.place], total.limit - total.used - total.reserved)
        return Use(*least)

    def bears(self, use: Use) -> Literal["go", "wait", "stop"]:
        """Says whether so much more may be used in all; ``wait`` where what is under way may turn out to use less."""
        short = next((found for found in self._totals if not found[1].bears(use[found[1].place])), None)
        if short is None:
            return "go"
        return "wait" if short[0].in_flight else "stop"

    def set_aside(self, use: Use) -> None:
        """Sets aside what a batch job will probably use. Quotas a minute are for what is sent live."""
        for budget in self._budget.chain():
            budget.in_flight += 1
        for _, total in self._totals:
            total.reserved += use[total.place]

    def put_right(self, aside: Use, used: Use) -> None:
        """Puts right what was set aside for a batch job that is over."""
        for budget in self._budget.chain():
            budget.in_flight -= 1
        self._count(aside, used)

    def short_text(self, use: Use) -> str:
        """Says in words that so much more may not be used; empty where it may."""
        short = next((total for _, total in self._totals if not total.bears(use[total.place])), None)
        return "" if short is None else short.text(use[short.place])

    def learn(self, *, tokens: float, usd: float, rows: int = 1) -> None:
        """Notes what a reply about so many rows used, in this run or when the ledger bought it.

        Args:
            tokens: Of the whole request, in and out.
            usd: Of the whole request.
            rows: How many it asked about. What single rows take and what several at once take is learned apart.
        """
        count, seen = self._seen.get(rows > 1, (0.0, Use()))
        seen = Use(seen.requests + 1, seen.tokens + tokens, seen.usd + usd)
        self._seen[rows > 1] = (count + rows, seen)

    def reserve(self, now_s: float, *, rows: int = 1) -> Use:
        """Sets aside what a request about so many rows will probably use that is being sent, and returns it."""
        estimate = self._estimate(rows)
        for budget in self._budget.chain():
            budget.in_flight += 1
        for _, total in self._totals:
            total.reserved += estimate[total.place]
        for place, pace in self._paces:
            pace.take(estimate[place], now_s)
        return estimate

    def settle(self, reserved: Use, used: Use, now_s: float) -> None:
        """Puts right what was set aside for a request that has ended.

        Args:
            reserved: What :meth:`reserve` gave for it.
            used: What it used; nothing where it never arrived.
            now_s: By the run's clock.
        """
        for budget in self._budget.chain():
            budget.in_flight -= 1
        self._count(reserved, used)
        for place, pace in self._paces:
            if used[place] != reserved[place]:
                pace.take(used[place] - reserved[place], now_s)

    def _count(self, reserved: Use, used: Use) -> None:
        for budget, total in self._totals:
            # Sums of many small floats drift; with nothing in flight the truth is known.
            total.reserved = total.reserved - reserved[total.place] if budget.in_flight else 0.0
            total.used += used[total.place]

    def exhausted_text(self) -> str:
        """Says in words why nothing more goes."""
        exhausted = self._exhausted()
        return "" if exhausted is None else exhausted[1].text(self.estimate[exhausted[1].place])

    def _exhausted(self) -> tuple[Budget, Total] | None:
        estimate = self.estimate
        return next((found for found in self._totals if not found[1].bears(estimate[found[1].place])), None)
