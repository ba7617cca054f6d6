"""Intervals of a share: Wilson's, and one that stays right however often it is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple


class Share(NamedTuple):
    """Successes among trials, with an interval; ``value`` and its ends are None where nothing was tried."""

    successes: int
    trials: int
    value: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return self._asdict()

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "nothing tried"
        ends = f"{100 * self.low:.1f} to {100 * self.high:.1f}"
        return f"{100 * self.value:.1f}% ({ends}) of {self.trials:,}"


def wilson_share(successes: int, trials: int, *, level: float = 0.95) -> Share:
    """A share with Wilson's score interval (Wilson 1927): right when it is looked at once, at the end.

    Args:
        successes: How often it was so.
        trials: Of how many; with none, the share and its interval are None.
        level: Two-sided confidence.
    """
    if not trials:
        return Share(successes, trials, None, None, None)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    value = successes / trials
    scale = 1 + z * z / trials
    middle = value + z * z / (2 * trials)
    reach = z * math.sqrt(value * (1 - value) / trials + z * z / (4 * trials * trials))
    return Share(successes, trials, value, max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale))


def anytime_share(successes: int, trials: int, *, level: float = 0.95) -> Share:
    """A share with a confidence sequence: all its intervals, after every trial, hold at once with this probability.

    So one may look after every answer and stop when the interval says so, which Wilson's does not allow. It is every p
    against which the uniform mixture of all rates has not won by ``1 / (1 - level)`` (Robbins 1970; Ville's
    inequality), with s successes and f failures:

        B(s + 1, f + 1) / (p^s (1 - p)^f)  <  1 / (1 - level)

    Args:
        successes: As in :func:`wilson_share`.
        trials: As there.
        level: Confidence of all intervals together.
    """
    if not trials:
        return Share(successes, trials, None, None, None)
    value = successes / trials
    bound = -math.log(1 - level)

    def outside(p: float) -> bool:
        return log_mixture_ratio(successes, trials, p) >= bound

    low = 0.0 if successes == 0 else _edge(outside, 0.0, value)
    high = 1.0 if successes == trials else _edge(outside, 1.0, value)
    return Share(successes, trials, value, low, high)


def log_mixture_ratio(successes: int, trials: int, p: float) -> float:
    """Log of the evidence against a rate p: how much likelier the trials are under a uniform mixture of all rates.

    Args:
        successes: s.
        trials: s + f.
        p: Within (0, 1).
    """
    failures = trials - successes
    beta = math.lgamma(successes + 1) + math.lgamma(failures + 1) - math.lgamma(trials + 2)
    return beta - successes * math.log(p) - failures * math.log1p(-p)


def _edge(outside: Callable[[float], bool], end: float, inside: float) -> float:
    """Where the interval ends between ``end``, which is outside, and ``inside``."""
    for _ in range(50):
        middle = (end + inside) / 2
        if outside(middle):
            end = middle
        else:
            inside = middle
    return inside
