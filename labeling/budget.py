"""What a run may spend."""

from __future__ import annotations

from typing import Literal

Admission = Literal["go", "wait", "stop"]


class Budget:
    """Keeps spending within a limit, also with many requests in flight.

    What a request costs is known only when it is answered. So an estimate is set aside when it is sent, and put right
    when the answer is there: the limit is missed by at most what the estimates were off for the requests then in flight.

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
        self._in_flight = 0
        self._reserved_usd = 0.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit here or above."""
        return self.limit_usd is not None or (self.within is not None and self.within.limited)

    def admits(self, estimate_usd: float | None) -> Admission:
        """Says whether a request may go.

        Args:
            estimate_usd: What it will probably cost; None where nothing is known yet: such a request goes alone, so that
                its answer tells.

        Returns:
            ``go``; ``wait`` until requests in flight have shown what they cost; or ``stop``.
        """
        if estimate_usd is None and self._in_flight:
            return "wait"
        exhausted = self._exhausted(estimate_usd)
        if exhausted is None:
            return "go"
        return "wait" if exhausted._in_flight else "stop"

    def reserve(self, estimate_usd: float) -> None:
        """Sets money aside for a request that is being sent."""
        self._in_flight += 1
        self._reserved_usd += estimate_usd
        if self.within is not None:
            self.within.reserve(estimate_usd)

    def settle(self, estimate_usd: float, cost_usd: float) -> None:
        """Puts right what was set aside for a request that has ended."""
        self._in_flight -= 1
        self._reserved_usd = self._reserved_usd - estimate_usd if self._in_flight else 0.0
        self.spent_usd += cost_usd
        if self.within is not None:
            self.within.settle(estimate_usd, cost_usd)

    def exhausted_text(self, estimate_usd: float | None) -> str:
        """Says in words why nothing more goes."""
        budget = self._exhausted(estimate_usd) or self
        return (
            f"{budget.name}: ${budget.spent_usd:.4f} of ${budget.limit_usd or 0:.4f} is spent and the next request costs "
            f"about ${estimate_usd or 0:.4f}; raise it, or run the same command again to spend as much once more"
        )

    def _exhausted(self, estimate_usd: float | None) -> Budget | None:
        """The budget, this or one above, that cannot bear one more request; None where all can."""
        if self.limit_usd is not None:
            set_aside = self.spent_usd + self._reserved_usd
            if set_aside >= self.limit_usd or set_aside + (estimate_usd or 0.0) > self.limit_usd:
                return self
        return self.within._exhausted(estimate_usd) if self.within is not None else None
