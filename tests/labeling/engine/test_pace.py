from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.labeling.engine.pace import Pace


def sent(pace: Pace, amount: Callable[[], float], *, until_s: float) -> list[tuple[float, float]]:
    """Sends as soon as it may; gives the times and sizes."""
    now_s, log = 0.0, []
    while now_s < until_s:
        size = amount()
        while (wait_s := pace.wait_s(size, now_s)) > 0:
            now_s += wait_s
        pace.take(size, now_s)
        log.append((now_s, size))
    return log


def most_in_a_minute(log: list[tuple[float, float]]) -> float:
    # A window that begins with a sending holds as much as any; a hair less than 60 s, as times are floats.
    best = total = 0.0
    start = 0
    for at_s, size in log:
        total += size
        while at_s - log[start][0] >= 60 - 1e-6:
            total -= log[start][1]
            start += 1
        best = max(best, total)
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5000))
def test_requests_never_exceed_the_limit_in_any_minute_and_nearly_reach_it(limit: int) -> None:
    log = sent(Pace(limit, name="q", unit=1.0), lambda: 1.0, until_s=300.0)
    assert most_in_a_minute(log) <= limit
    # (limit - capacity + 1) a minute, capacity being a 60th of the limit: 98% of it.
    assert len(log) >= 5 * 0.98 * limit


@settings(max_examples=40, deadline=None)
@given(st.integers(2000, 200_000), st.integers(0, 2**32))
def test_tokens_never_exceed_the_limit_in_any_minute(limit: int, seed: int) -> None:
    dice = random.Random(seed)
    log = sent(Pace(limit, name="q"), lambda: dice.uniform(100, 900), until_s=300.0)
    # The largest request may come when the bucket was sized for a smaller one.
    assert most_in_a_minute(log[5:]) <= limit + 900
    assert sum(size for _, size in log) >= 5 * (limit - max(900, limit / 60)) * 0.95


def test_a_request_larger_than_the_quota_goes_and_is_paid_off() -> None:
    pace = Pace(600, name="q")
    assert pace.wait_s(3000, 0.0) == 0
    pace.take(3000, 0.0)
    # Half the quota, 300, is the capacity: 300 - 3000, refilled at 5 a second up to 300.
    assert pace.wait_s(3000, 0.0) == pytest.approx(3000 / 5)


def test_what_was_counted_too_much_is_given_back_but_never_saved_up() -> None:
    pace = Pace(6000, name="q")
    pace.wait_s(500, 0.0)
    pace.take(500, 0.0)
    pace.take(-400, 0.0)
    assert pace.wait_s(400, 0.0) == 0
    assert pace.wait_s(500, 0.0) == pytest.approx(100 / (5500 / 60))
    pace.take(-5000, 0.0)
    assert pace.room(100, 0.0) == 5
