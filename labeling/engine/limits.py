"""How many requests a teacher is sent at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

_START = 8
MOST_IN_FLIGHT = 1024
"""What is never gone beyond unless a fixed limit says so."""

_BACKOFF = 0.9
_SATURATED_AT = 0.9
_LATENCY_RISE = 2.0
# A rate measured over fewer answers says little.
_ANSWERS_PER_ROUND = 32
# Slow start doubles, and wants at least this gain in throughput for it; afterwards a quarter more wants 8%.
_GAIN_OF_DOUBLING = 1.15
_STRIDE = 1.25
_GAIN_OF_STRIDE = 1.08
# One request is risked at the level that was last rejected after so many answers without a rejection: 1% of them.
_ANSWERS_PER_RISK = 100
_PATIENCE_ROUNDS = 8
_MOST_PATIENCE_ROUNDS = 64


@dataclass(slots=True)
class _Round:
    """What has been seen since the limit was last looked at."""

    number: int
    started_s: float
    answers: int = 0
    latency_s: float = 0.0
    peak: int = 0


class _Footing(NamedTuple):
    """A limit that is known to be sound, and what it brought."""

    limit: int
    rate: float
    latency_s: float


class Learned(NamedTuple):
    """What a run found of a server.

    Attributes:
        limit: Requests in flight that it bore.
        settled: Whether slow start had come to its end; where it had not, the server may bear much more.
    """

    limit: int
    settled: bool


class Limiter:
    """Decides when the next request may go. Holds no clock and never sleeps: the caller says what time it is.

    With a fixed limit it only obeys pauses. Without one it finds the limit, round by round, a round being about as many
    answers as are allowed in flight:

    - *slow start*: the limit doubles after every round in which it was used up, until the server rejects, or doubling
      no longer raises the throughput by 15%; then it is halved, once;
    - *additive increase*: from there it grows by an eighth of the way back to where it was last rejected, at least by
      one, and past that point by one more each round, so that a server that now bears more is soon used up. It keeps
      what it gained only where a quarter more in flight brought 8% more answers; else it goes back, and tries
      again after a while that doubles each time: a server that queues shows no rejections, only later answers;
    - *multiplicative decrease*: at a rejection, once for all requests that were in flight together, and when answers
      take twice as long as they did at the same limit, it falls to nine tenths.

    It grows only while it is what holds requests back. Congestion windows of this kind are described in RFC 5681
    (slow start, AIMD) and RFC 9438 (return to the last maximum).

    Args:
        fixed: The limit, where it is given; None finds it.
        ceiling: The most that the teacher can bear; None is 1024.
        start: Where slow start begins; None is 8.
        learned: What an earlier run found; the search goes on from there. Where slow start had come to its end, there
            is none again, but additive increase from nine tenths of it; rejections halve the limit until one round
            went well, since the server may bear less today.
    """

    def __init__(
        self,
        *,
        fixed: int | None = None,
        ceiling: int | None = None,
        start: int | None = None,
        learned: Learned | None = None,
    ) -> None:
        self.ceiling = max(1, ceiling or MOST_IN_FLIGHT)
        self.adaptive = fixed is None
        self.limit = min(fixed or (_start_of(learned) if learned else start) or _START, self.ceiling)
        self.in_flight = 0
        self.paused_until_s = 0.0
        self._slow_start = learned is None or not learned.settled
        self._unproven = learned is not None
        self._sound: int | None = None
        self._rejected_at: int | None = None
        self._answers_since_rejection = 0
        self._step = 1
        self._hold_rounds = 0
        self._patience_rounds = _PATIENCE_ROUNDS
        self._footing: _Footing | None = None
        self._round: _Round | None = None

    @property
    def learned(self) -> Learned | None:
        """What the next run may begin with; None where nothing was found: too few answers, or the limit is fixed."""
        if not self.adaptive or self._sound is None:
            return None
        return Learned(self._sound if self._slow_start else self.limit, not self._slow_start)

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
        self._answers_since_rejection += 1
        self._round.answers += 1
        self._round.latency_s += latency_s
        if self._round.answers >= (self.limit if self._slow_start else max(self.limit, _ANSWERS_PER_ROUND)):
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
            self.pause(retry_after_s, now_s)
        # Whatever was sent before the last decrease says nothing about the limit since.
        if self.adaptive and self._round is not None and round_number >= self._round.number:
            self._rejected_at = min(self.limit, self.in_flight + 1)
            self._answers_since_rejection = 0
            self._decrease(now_s)

    def pause(self, seconds: float, now_s: float) -> None:
        """Lets nothing go for a while."""
        self.paused_until_s = max(self.paused_until_s, now_s + seconds)

    def failed(self) -> None:
        """A request ended without saying anything about the load: the server is down, the request was at fault."""
        self.in_flight -= 1

    def _end_round(self, ended: _Round, now_s: float) -> None:
        # After a decrease, what was sent under the old limit is still in flight: such a round looks too good.
        if self.limit * _SATURATED_AT <= ended.peak <= self.limit:
            seen = _Footing(
                self.limit, ended.answers / max(now_s - ended.started_s, 1e-9), ended.latency_s / ended.answers
            )
            self._sound, self._unproven = self.limit, False
            if self._slow_start:
                self._double(seen, now_s)
            else:
                self._climb(seen, now_s)
        self._begin_round(now_s)

    def _double(self, seen: _Footing, now_s: float) -> None:
        if self._footing is not None and seen.rate < self._footing.rate * _GAIN_OF_DOUBLING:
            self._decrease(now_s)
            return
        self._footing = seen
        self.limit = min(self.limit * 2, self.ceiling)

    def _climb(self, seen: _Footing, now_s: float) -> None:
        footing = self._footing
        if footing is None:
            self._footing = seen
        elif seen.latency_s > footing.latency_s * _LATENCY_RISE and seen.rate < footing.rate:
            self._decrease(now_s)
            return
        elif seen.limit >= footing.limit * _STRIDE:
            if seen.rate < footing.rate * _GAIN_OF_STRIDE:
                self.limit, self._footing, self._step = footing.limit, None, 1
                self._hold_rounds = self._patience_rounds
                self._patience_rounds = min(2 * self._patience_rounds, _MOST_PATIENCE_ROUNDS)
                return
            self._footing, self._patience_rounds = seen, _PATIENCE_ROUNDS
        if self._hold_rounds > 0:
            self._hold_rounds -= 1
        else:
            self.limit = min(self.limit + self._growth(), self.ceiling)

    def _growth(self) -> int:
        if self._rejected_at is None or self.limit >= self._rejected_at:
            self._step += 1
            return self._step - 1
        growth = max(1, (self._rejected_at - self.limit) // 8)
        risky = self.limit + growth >= self._rejected_at
        return 0 if risky and self._answers_since_rejection < _ANSWERS_PER_RISK else growth

    def _decrease(self, now_s: float) -> None:
        # Slow start has just doubled the limit: the half is known to be sound.
        halve = self._slow_start or self._unproven
        self.limit = max(1, self.limit // 2 if halve else int(self.limit * _BACKOFF))
        self._slow_start = False
        self._footing = None
        self._step = 1
        self._begin_round(now_s)

    def _begin_round(self, now_s: float) -> None:
        self._round = _Round(self._round.number + 1 if self._round else 0, now_s, peak=self.in_flight)


def _start_of(learned: Learned) -> int:
    # The limit found swings between nine tenths of what is borne and a step above it; begun above, it would be halved.
    return max(1, int(learned.limit * _BACKOFF)) if learned.settled else learned.limit


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
