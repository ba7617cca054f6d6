from __future__ import annotations

from distill.labeling.engine.budget import Budget, Purse, Use
from distill.labeling.quota_config import QuotaConfig


def learn(purse: Purse, usd: float = 0.0, *, tokens: float = 0.0) -> None:
    purse.learn(tokens=tokens, usd=usd)


def test_first_request_goes_alone_so_that_its_price_is_known() -> None:
    purse = Purse(Budget(10.0))
    assert purse.admits(0.0) == "go"
    reserved = purse.reserve(0.0)
    assert (reserved.usd, purse.admits(0.0)) == (0.0, "wait")
    learn(purse, 2.0)
    purse.settle(reserved, Use(1, 0, 2.0), 0.0)
    # Four more at $2 fit into what is left of $10.
    reservations = []
    while purse.admits(0.0) == "go":
        reservations.append(purse.reserve(0.0))
    assert [reserved.usd for reserved in reservations] == [2.0] * 4
    assert purse.admits(0.0) == "wait"
    learn(purse, 1.0)
    purse.settle(reservations[0], Use(1, 0, 1.0), 0.0)  # 2 + 1 + 3 x 2 = $9 gone, the mean is $1.50
    assert purse.admits(0.0) == "wait"
    for reserved in reservations[1:]:
        learn(purse, 1.0)
        purse.settle(reserved, Use(1, 0, 1.0), 0.0)
    assert purse.admits(0.0) == "go"  # 2 + 4 x 1 = $6, the mean is $1.20
    for _ in range(3):
        purse.settle(purse.reserve(0.0), Use(1, 0, 1.2), 0.0)
    assert purse.admits(0.0) == "stop"  # $9.60 and $1.20 more
    assert "labeling.budget_usd: $9.6000 of $10.0000 is spent" in purse.exhausted_text()


def test_own_budget_lies_within_the_runs() -> None:
    run = Budget(10.0)
    rich, poor = Purse(Budget(within=run)), Purse(Budget(1.0, within=run, name="teachers.poor"))
    for purse in (rich, poor):
        learn(purse, 1.0)
    poor.settle(poor.reserve(0.0), Use(1, 0, 1.0), 0.0)
    assert poor.admits(0.0) == "stop"
    assert poor.exhausted_text().startswith("teachers.poor.budget_usd")
    for _ in range(9):
        assert rich.admits(0.0) == "go"
        rich.settle(rich.reserve(0.0), Use(1, 0, 1.0), 0.0)
    assert rich.admits(0.0) == "stop"
    assert rich.exhausted_text().startswith("labeling.budget_usd: $10.0000 of $10.0000")


def test_without_a_limit_all_goes_and_with_an_empty_one_nothing() -> None:
    free = Purse(Budget())
    assert not free.limited
    assert free.admits(0.0) == "go"
    for empty in (Budget(0.0), Budget(quota=QuotaConfig(requests=0)), Budget(quota=QuotaConfig(tokens=0))):
        assert Purse(empty).admits(0.0) == "stop"


def test_requests_in_all_count_what_failed_and_need_no_estimate() -> None:
    purse = Purse(Budget(quota=QuotaConfig(requests=3)))
    first, second = purse.reserve(0.0), purse.reserve(0.0)
    assert purse.admits(0.0) == "go"  # none goes alone: a request is a request
    purse.settle(first, Use(1), 0.0)
    purse.settle(second, Use(1, 50), 0.0)
    purse.settle(purse.reserve(0.0), Use(1), 0.0)
    assert purse.admits(0.0) == "stop"
    assert purse.exhausted_text().startswith("labeling.quota.requests: 3 of 3 are used")


def test_tokens_in_all_are_reserved_and_corrected() -> None:
    purse = Purse(Budget(quota=QuotaConfig(tokens=1000), name="teachers.a"))
    learn(purse, tokens=400)
    one, two = purse.reserve(0.0), purse.reserve(0.0)
    assert purse.admits(0.0) == "wait"  # 800 set aside, 400 more would be 1,200
    purse.settle(one, Use(1, 100), 0.0)
    learn(purse, tokens=100)
    assert purse.estimate.tokens == 250
    assert purse.admits(0.0) == "go"  # 100 + 400 set aside + 250
    purse.settle(two, Use(1, 0), 0.0)  # it failed: nothing was used
    assert purse.admits(0.0) == "go"
    purse.settle(purse.reserve(0.0), Use(1, 800), 0.0)
    assert purse.admits(0.0) == "stop"
    assert purse.exhausted_text().startswith("teachers.a.quota.tokens: 900 of 1,000 are used")


def test_quota_a_minute_says_when_to_go_on_and_which_it_is() -> None:
    purse = Purse(Budget(quota=QuotaConfig(requests_per_minute=60, tokens_per_minute=6000), name="teachers.a"))
    learn(purse, tokens=500)
    assert purse.admits(10.0) == "go"
    reserved = purse.reserve(10.0)
    assert purse.admits(10.0) == "later"
    # The bucket holds one request of 500 tokens and is refilled by (6000 - 500) / 60 a second.
    assert abs(purse.wait_s(10.0) - 500 / (5500 / 60)) < 1e-6
    assert purse.slowest(10.0) == "teachers.a.quota.tokens_per_minute"
    purse.settle(reserved, Use(1, 50), 10.0)  # it took 50: 450 are given back
    assert abs(purse.wait_s(10.0) - 1.0) < 1e-6  # one request a second is now what holds it
    assert purse.slowest(10.0) == "teachers.a.quota.requests_per_minute"
    assert purse.admits(11.0) == "go"


def test_quota_of_the_run_is_shared_by_its_teachers() -> None:
    run = Budget(quota=QuotaConfig(requests_per_minute=60))
    one, two = Purse(Budget(within=run, name="teachers.one")), Purse(Budget(within=run, name="teachers.two"))
    one.reserve(0.0)
    assert (one.admits(0.0), two.admits(0.0)) == ("later", "later")
    assert two.admits(1.0) == "go"
    two.reserve(1.0)
    assert one.slowest(1.0) == "labeling.quota.requests_per_minute"


def test_requests_about_one_row_and_about_several_are_estimated_apart() -> None:
    purse = Purse(Budget(quota=QuotaConfig(tokens=10_000)))
    purse.learn(tokens=100, usd=0.0)
    purse.rows = 8
    assert purse.estimate.tokens == 800  # nothing better is known of eight at once than eight times one
    purse.learn(tokens=240, usd=0.0, rows=8)
    purse.learn(tokens=80, usd=0.0, rows=2)
    assert purse.estimate.tokens == 8 * 32  # 320 tokens for ten rows
    assert purse.reserve(0.0, rows=4).tokens == 128
    purse.rows = 1
    assert purse.estimate == (1.0, 100.0, 0.0)


def test_a_batch_job_is_set_aside_as_a_whole() -> None:
    run = Budget(10.0)
    purse = Purse(Budget(8.0, quota=QuotaConfig(requests=100), within=run, name="teachers.a"))
    other = Purse(Budget(within=run, name="teachers.b"))
    assert purse.left() == Use(100.0, float("inf"), 8.0)
    job = Use(30.0, 900.0, 6.0)
    purse.set_aside(job)
    assert purse.left() == Use(70.0, float("inf"), 2.0)
    assert other.left().usd == 4.0
    # What does not fit waits while a job is under way that may turn out to cost less, and not after it.
    assert (purse.bears(Use(1, 0, 2.0)), purse.bears(Use(1, 0, 2.5)), other.bears(Use(1, 0, 5.0))) == (
        "go",
        "wait",
        "wait",
    )
    purse.put_right(job, Use(30.0, 900.0, 7.0))
    assert purse.left() == Use(70.0, float("inf"), 1.0)
    assert (purse.bears(Use(1, 0, 1.5)), other.bears(Use(1, 0, 3.5))) == ("stop", "stop")
    assert "teachers.a.budget_usd: $7.0000 of $8.0000 is spent" in purse.short_text(Use(1, 0, 1.5))
    assert purse.short_text(Use(1, 0, 0.5)) == ""
