"""How many requests a teacher is sent at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_START = 8
_CEILING = 1024
_BACKOFF = 0.9
_SATURATED_AT = 0.9
_GAIN_WANTED = 1.15
_LATENCY_RISE = 2.0


@dataclass(slots=True)
class _Round:
    """What has been seen since the limit was last looked at: about as many answers as the limit allows in flight."""

    number: int
    started_s: float
    answers: int = 0
    latency_s: float = 0.0
    peak: int = 0


class Limiter:
    """Decides when the next request may go. Holds no clock and never sleeps: the caller says what time it is.

    With a fixed limit it only obeys pauses. Without one it finds the limit, round by round, a round being as many
    answers as are allowed in flight:

    - *slow start*: the limit doubles after every round in which it was used up, until the server rejects, or doubling
      no longer raises the throughput by 15%;
    - *additive increase*: from there it grows by an eighth of the way back to where it was last rejected, at least by
      one, and past that point by one more each round, so that a server that now bears more is soon used up;
    - *multiplicative decrease*: at a rejection, or when the mean latency of a round is over twice the lowest seen, it
      falls to nine tenths, once for all requests that were in flight together.

    It grows only while it is what holds requests back. A congestion window of this kind is described in RFC 5681
    (slow start, AIMD) and RFC 9438 (return to the last maximum).

    Args:
        fixed: The limit, where it is given; None finds it.
        ceiling: The most that the teacher can bear; None is 1024.
        start: Where the search begins; None is 8.
    """

    def __init__(self, *, fixed: int | None = None, ceiling: int | None = None, start: int | None = None) -> None:
        self.ceiling = max(1, ceiling or _CEILING)
        self.adaptive = fixed is None
        self.limit = min(fixed or start or _START, self.ceiling)
        self.in_flight = 0
        self.paused_until_s = 0.0
        self._slow_start = True
        self._rejected_at: int | None = None
        self._step = 1
        self._rate = 0.0
        self._lowest_latency_s: float | None = None
        self._round: _Round | None = None

    def room(self, now_s: float) -> int:
        """How many more requests may go now."""
        return 0 if now_s < self.paused_until_s else max(0, self.limit - self.in_flight)

    def take(self, now_s: float) -> int:
        """Counts a request as sent.

        Returns:
            The number of the round it belongs to, to be given back with its result.
        """
        if self._round is None:
            self._round = _Round(0, now_s)
        self.in_flight += 1
        self._round.peak = max(self._round.peak, self.in_flight)
        return self._round.number

    def answered(self, latency_s: float, now_s: float) -> None:
        """A request was answered."""
        self.in_flight -= 1
        if not self.adaptive or self._round is None:
            return
        self._round.answers += 1
        self._round.latency_s += latency_s
        if self._round.answers >= self.limit:
            self._end_round(self._round, now_s)

    def rejected(self, round_number: int, now_s: float, *, retry_after_s: float | None = None) -> None:
        """A request was turned away (429, 5xx, no answer in time).

        Args:
            round_number: What :meth:`take` returned for it.
            now_s: The time.
            retry_after_s: How long the server asked to wait. Nothing is sent to it until then.
        """
        self.in_flight -= 1
        if retry_after_s is not None:
            self.paused_until_s = max(self.paused_until_s, now_s + retry_after_s)
        # Whatever was sent before the last decrease says nothing about the limit since.
        if self.adaptive and self._round is not None and round_number >= self._round.number:
            self._rejected_at = min(self.limit, self.in_flight + 1)
            self._decrease(now_s)

    def failed(self) -> None:
        """A request ended without saying anything about the load: the server is down, the request was at fault."""
        self.in_flight -= 1

    def _end_round(self, ended: _Round, now_s: float) -> None:
        latency_s = ended.latency_s / ended.answers
        rate = ended.answers / max(now_s - ended.started_s, 1e-9)
        lowest_s = self._lowest_latency_s
        # The floor drifts up by 1% a round, so that it follows a server that became slower for good.
        self._lowest_latency_s = latency_s if lowest_s is None else min(latency_s, lowest_s * 1.01)
        if ended.peak < self.limit * _SATURATED_AT:
            self._begin_round(now_s)
            return
        if self._slow_start:
            if self._rate and rate < self._rate * _GAIN_WANTED:
                self._decrease(now_s)
                return
            self._rate = rate
            self.limit = min(self.limit * 2, self.ceiling)
        elif lowest_s is not None and latency_s > lowest_s * _LATENCY_RISE:
            self._decrease(now_s)
            return
        else:
            self.limit = min(self.limit + self._growth(), self.ceiling)
        self._begin_round(now_s)

    def _growth(self) -> int:
        if self._rejected_at is not None and self.limit < self._rejected_at:
            return max(1, (self._rejected_at - self.limit) // 8)
        self._step += 1
        return self._step - 1

    def _decrease(self, now_s: float) -> None:
        # Slow start has just doubled the limit: the half is known to be sound. Latency there is the floor to come.
        if self._slow_start:
            self._slow_start, self._lowest_latency_s = False, None
            self.limit = max(1, self.limit // 2)
        else:
            self.limit = max(1, int(self.limit * _BACKOFF))
        self._step = 1
        self._begin_round(now_s)

    def _begin_round(self, now_s: float) -> None:
        self._round = _Round(self._round.number + 1 if self._round else 0, now_s, peak=self.in_flight)


def backoff_s(
    attempt: int, uniform: Callable[[float, float], float], *, first_s: float = 1.0, most_s: float = 60.0
) -> float:
    """How long to wait before a request is sent again: full jitter.

    A uniform draw from 0 to ``min(most_s, first_s * 2**attempt)``, as in Brooker, "Exponential backoff and jitter"
    (AWS, 2015): clients that failed together do not come back together.

    Args:
        attempt: How often it failed before, from 0.
        uniform: Draws a number between two others.
        first_s: Upper end of the first wait.
        most_s: Upper end of any wait.
    """
    return uniform(0.0, min(most_s, first_s * 2.0 ** min(attempt, 32)))
