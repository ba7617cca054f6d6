"""What a run may spend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

Admission = Literal["go", "wait", "stop"]


class Budget:
    """A sum that may be spent, and what of it is spent or set aside.

    Args:
        limit_usd: The most that may be spent; None is no limit.
        within: A larger budget that this one is a part of.
        name: What to call it in messages.
    """

    def __init__(
        self, limit_usd: float | None, *, within: Budget | None = None, name: str = "labeling.budget_usd"
    ) -> None:
        self.limit_usd = limit_usd
        self.within = within
        self.name = name
        self.spent_usd = 0.0
        self.reserved_usd = 0.0
        self.in_flight = 0

    def chain(self) -> Iterator[Budget]:
        """This budget and those above it."""
        budget: Budget | None = self
        while budget is not None:
            yield budget
            budget = budget.within

    def bears(self, more_usd: float) -> bool:
        """Whether more may be spent, what is set aside counted as spent. An empty budget bears nothing, not even 0."""
        gone_usd = self.spent_usd + self.reserved_usd
        return self.limit_usd is None or (gone_usd < self.limit_usd and gone_usd + more_usd <= self.limit_usd)


class Purse:
    """Spends one teacher's budget, and with it the run's, also with many requests in flight.

    What a request costs is known only when it is answered. So the mean of what was paid before is set aside when it is
    sent, and put right when the answer is there: the limit is missed by at most what the estimates were off for the
    requests then in flight.

    Args:
        budget: What may be spent.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._paid_usd = 0.0
        self._paid_for = 0

    @property
    def limited(self) -> bool:
        """Whether there is a limit, its own or the run's."""
        return any(budget.limit_usd is not None for budget in self._budget.chain())

    @property
    def estimate_usd(self) -> float | None:
        """What the next request will probably cost; None before anything is known."""
        return self._paid_usd / self._paid_for if self._paid_for else None

    def admits(self) -> Admission:
        """Says whether one more request may go.

        Returns:
            ``go``; ``wait`` until requests in flight have shown what they cost (the first of all goes alone); or
            ``stop``.
        """
        estimate_usd = self.estimate_usd
        if estimate_usd is None and self._budget.in_flight:
            return "wait"
        exhausted = self._exhausted()
        if exhausted is None:
            return "go"
        return "wait" if exhausted.in_flight else "stop"

    def learn(self, cost_usd: float) -> None:
        """Notes what a reply cost, in this run or when the ledger bought it."""
        self._paid_usd += cost_usd
        self._paid_for += 1

    def reserve(self) -> float:
        """Sets money aside for a request that is being sent, and returns how much."""
        estimate_usd = self.estimate_usd or 0.0
        for budget in self._budget.chain():
            budget.in_flight += 1
            budget.reserved_usd += estimate_usd
        return estimate_usd

    def settle(self, reserved_usd: float, paid_usd: float) -> None:
        """Puts right what was set aside for a request that has ended."""
        for budget in self._budget.chain():
            budget.in_flight -= 1
            # Sums of many small floats drift; with nothing in flight the truth is known.
            budget.reserved_usd = budget.reserved_usd - reserved_usd if budget.in_flight else 0.0
            budget.spent_usd += paid_usd

    def exhausted_text(self) -> str:
        """Says in words why nothing more goes."""
        budget, estimate_usd = self._exhausted() or self._budget, self.estimate_usd or 0.0
        return (
            f"{budget.name}: ${budget.spent_usd:.4f} of ${budget.limit_usd or 0:.4f} is spent and the next request "
            f"costs about ${estimate_usd:.4f}; raise it, or run the same command again to spend as much once more"
        )

    def _exhausted(self) -> Budget | None:
        estimate_usd = self.estimate_usd or 0.0
        return next((budget for budget in self._budget.chain() if not budget.bears(estimate_usd)), None)
