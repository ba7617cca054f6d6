from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from distill.labeling.engine.limits import Learned, Limiter, backoff_s


@dataclass
class World:
    """Keeps a limiter busy against a server, in simulated time.

    ``serve`` says of a request that finds ``busy`` others how long it takes, and whether it is rejected.
    """

    limiter: Limiter
    serve: Callable[[float, int], tuple[float, bool]]
    now_s: float = 0.0
    answered: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    events: list[tuple[float, int, float, int, bool]] = field(default_factory=list)
    order: Iterator[int] = field(default_factory=itertools.count)

    def run(self, until_s: float, *, demand: int | None = None) -> None:
        while self.now_s < until_s:
            room = self.limiter.room(self.now_s)
            for _ in range(room if demand is None else max(0, min(room, demand - len(self.events)))):
                takes_s, reject = self.serve(self.now_s, len(self.events))
                ticket = self.limiter.take(self.now_s)
                heapq.heappush(self.events, (self.now_s + takes_s, next(self.order), takes_s, ticket, reject))
            if not self.events:
                self.now_s = self.limiter.paused_until_s
                continue
            self.now_s, _, takes_s, ticket, reject = heapq.heappop(self.events)
            if reject:
                self.rejected.append(self.now_s)
                self.limiter.rejected(ticket, self.now_s)
            else:
                self.answered.append(self.now_s)
                self.limiter.answered(takes_s, self.now_s)
            self.limits.append(self.limiter.limit)

    def rate(self, since_s: float) -> float:
        return sum(at >= since_s for at in self.answered) / (self.now_s - since_s)

    def rejected_share(self, since_s: float) -> float:
        rejected = sum(at >= since_s for at in self.rejected)
        return rejected / (rejected + sum(at >= since_s for at in self.answered))


def hidden_limit(limit: Callable[[float], int]) -> Callable[[float, int], tuple[float, bool]]:
    """Takes a second give or take a third, and rejects at once what exceeds the limit."""
    dice = random.Random(7)
    return lambda now_s, busy: (0.02, True) if busy >= limit(now_s) else (dice.uniform(0.67, 1.33), False)


@pytest.mark.parametrize("limit", [2, 7, 30, 100, 500])
def test_finds_a_hidden_limit(limit: int) -> None:
    world = World(Limiter(), hidden_limit(lambda now_s: limit))
    world.run(240.0)
    # The best fixed setting is the limit itself: `limit` answers in flight, each a second.
    assert world.rate(since_s=60.0) >= 0.9 * limit
    assert world.rejected_share(since_s=60.0) < 0.02


def test_follows_a_limit_that_changes() -> None:
    world = World(Limiter(), hidden_limit(lambda now_s: 60 if now_s < 120 else 240 if now_s < 240 else 40))
    world.run(120.0)
    assert world.rate(since_s=60.0) >= 0.9 * 60
    world.run(240.0)
    assert world.rate(since_s=180.0) >= 0.9 * 240
    world.run(360.0)
    assert world.rate(since_s=300.0) >= 0.9 * 40
    assert world.rejected_share(since_s=300.0) < 0.02


def test_does_not_pile_up_requests_at_a_server_that_queues() -> None:
    # 64 at a time, a second each; the others wait in its queue: more in flight only makes each answer later.
    dice = random.Random(7)
    world = World(Limiter(), lambda now_s, busy: (max(1.0, (busy + 1) / 64) * dice.uniform(0.9, 1.1), False))
    world.run(300.0)
    assert world.rate(since_s=60.0) >= 0.9 * 64
    assert max(world.limits) <= 128  # the one doubling too many


def test_grows_only_while_it_is_what_holds_requests_back() -> None:
    world = World(Limiter(), hidden_limit(lambda now_s: 1000))
    world.run(60.0, demand=6)
    assert world.limiter.limit == 8


def test_slow_start_doubles_every_round() -> None:
    limiter = Limiter(ceiling=100)
    limits = []
    for second in range(5):
        tickets = [limiter.take(float(second)) for _ in range(limiter.room(second))]
        for _ in tickets:
            limiter.answered(1.0, second + 1.0)
        limits.append(limiter.limit)
    assert limits == [16, 32, 64, 100, 100]


def test_one_burst_of_rejections_is_one_decrease() -> None:
    limiter = Limiter(start=64)
    tickets = [limiter.take(0.0) for _ in range(64)]
    for ticket in tickets:
        limiter.rejected(ticket, 1.0)
    assert limiter.limit == 32  # slow start halves, once
    for ticket in [limiter.take(1.0) for _ in range(32)]:
        limiter.rejected(ticket, 2.0)
    assert limiter.limit == 28  # then to nine tenths, rounded down
    assert limiter.in_flight == 0


def test_fixed_limit_obeys_pauses_and_nothing_else() -> None:
    limiter = Limiter(fixed=4)
    tickets = [limiter.take(0.0) for _ in range(4)]
    assert limiter.room(0.0) == 0
    limiter.rejected(tickets[0], 1.0, retry_after_s=30.0)
    limiter.failed()
    limiter.answered(1.0, 1.0)
    assert (limiter.limit, limiter.room(30.9), limiter.room(31.0)) == (4, 0, 3)
    limiter.rejected(tickets[3], 2.0, retry_after_s=1.0)  # an earlier end does not shorten the pause
    assert limiter.room(30.9) == 0


def test_limit_never_falls_below_one_nor_rises_above_what_the_teacher_bears() -> None:
    limiter = Limiter(start=1)
    for second in range(9):
        limiter.rejected(limiter.take(second), second + 0.5)
    assert limiter.limit == 1
    assert Limiter(fixed=50, ceiling=3).limit == 3


def test_backoff_is_full_jitter() -> None:
    def most(low: float, high: float) -> float:
        assert low == 0.0
        return high

    assert [backoff_s(n, most) for n in (0, 1, 2, 5, 6, 7, 5000)] == [1.0, 2.0, 4.0, 32.0, 60.0, 60.0, 60.0]


def test_what_was_learned_is_where_the_next_run_begins() -> None:
    world = World(Limiter(), hidden_limit(lambda now_s: 100))
    assert world.limiter.learned is None  # nothing is known yet
    world.run(60.0)
    learned = world.limiter.learned
    assert learned is not None and 85 <= learned.limit <= 100 and learned.settled
    again = World(Limiter(learned=learned), hidden_limit(lambda now_s: 100))
    again.run(60.0)
    assert again.rate(since_s=2.0) >= 0.9 * 100  # at once, where slow start needs five rounds
    assert again.rejected_share(since_s=0.0) < 0.02
    assert Limiter(fixed=9).learned is None


def test_a_run_that_ended_in_slow_start_lets_the_next_one_go_on_with_it() -> None:
    world = World(Limiter(), hidden_limit(lambda now_s: 500))
    world.run(2.5)  # rounds of 8 and 16 have ended
    learned = world.limiter.learned
    assert learned is not None and not learned.settled
    again = World(Limiter(learned=learned), hidden_limit(lambda now_s: 500))
    again.run(30.0)
    assert max(again.limits[:2000]) >= 256  # doubling, where steps of one and two would be far below


def test_a_server_that_bears_less_than_last_time_is_found_out_soon() -> None:
    world = World(Limiter(learned=Learned(400, True)), hidden_limit(lambda now_s: 10))
    world.run(60.0)
    assert world.limits[-1] <= 12
    assert world.rate(since_s=20.0) >= 0.9 * 10
