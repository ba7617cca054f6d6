"""A quota a minute, kept by pacing."""

from __future__ import annotations

_WINDOW_S = 60.0
# Sums of floats drift; after the wait that was asked for, the level must be found to suffice.
_DUST = 1e-9


class Pace:
    """Lets through at most so much in any sixty seconds, spread evenly.

    A token bucket (Turner, "New directions in communications", 1986) that holds one second's worth, or the largest
    request seen where that is more, and is refilled so slowly that a whole minute with a full bucket at its start stays
    within the limit: ``capacity + 60 * rate = limit``. Even spreading matters: services that state a quota a minute
    enforce it over shorter times. Holds no clock: the caller says what time it is.

    Args:
        limit: The most in any sixty seconds.
        name: What to call it in messages.
        unit: Size of the steps in which it is used: 1 for requests, 0 for what has no step. Whole steps let the rate be
            one step higher.
    """

    def __init__(self, limit: float, *, name: str, unit: float = 0.0) -> None:
        self.limit = float(limit)
        self.name = name
        self._unit = unit
        self._largest = 0.0
        self._level: float | None = None
        self._at_s = 0.0

    @property
    def capacity(self) -> float:
        """What can go at once."""
        # A request of more than half a minute's quota goes into debt instead, or the rate would fall to nothing.
        most = max(self.limit / _WINDOW_S, min(self._largest, self.limit / 2))
        return max(self._unit, most)

    @property
    def rate_per_s(self) -> float:
        """What may go a second, in the long run."""
        return (self.limit - self.capacity + self._unit) / _WINDOW_S

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until a request of this size may go; 0 where it may go now."""
        self._largest = max(self._largest, amount)
        missing = min(amount, self.capacity) - self._refill(now_s)
        return missing / self.rate_per_s if missing > _DUST * self.limit else 0.0

    def room(self, amount: float, now_s: float) -> int | None:
        """How many requests of this size may go now, at least one; None where their size is nothing."""
        return max(1, int((self._refill(now_s) + _DUST * self.limit) / amount)) if amount > 0 else None

    def take(self, amount: float, now_s: float) -> None:
        """Counts a request that is sent. A negative amount gives back what was counted too much."""
        self._level = min(self._refill(now_s) - amount, self.capacity)

    def _refill(self, now_s: float) -> float:
        if self._level is None:
            self._level = self.capacity
        else:
            self._level = min(self.capacity, self._level + self.rate_per_s * max(0.0, now_s - self._at_s))
        self._at_s = now_s
        return self._level
