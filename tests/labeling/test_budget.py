from __future__ import annotations

from distill.labeling.budget import Budget, Purse


def test_first_request_goes_alone_so_that_its_price_is_known() -> None:
    purse = Purse(Budget(10.0))
    assert purse.admits() == "go"
    reserved = purse.reserve()
    assert (reserved, purse.admits()) == (0.0, "wait")
    purse.learn(2.0)
    purse.settle(reserved, 2.0)
    # Four more at $2 fit into what is left of $10.
    reservations = []
    while purse.admits() == "go":
        reservations.append(purse.reserve())
    assert reservations == [2.0] * 4
    assert purse.admits() == "wait"
    purse.learn(1.0)
    purse.settle(2.0, 1.0)  # cheaper than thought: $5 of estimates... 2 + 1 + 3 x 2 = $9 gone, the mean is $1.50
    assert purse.admits() == "wait"
    for _ in range(3):
        purse.learn(1.0)
        purse.settle(2.0, 1.0)
    assert purse.admits() == "go"  # 2 + 4 x 1 = $6, the mean is $1.20
    for _ in range(3):
        purse.settle(purse.reserve(), 1.2)
    assert purse.admits() == "stop"  # $9.60 and $1.20 more
    assert "labeling.budget_usd: $9.6000 of $10.0000 is spent" in purse.exhausted_text()


def test_own_budget_lies_within_the_runs() -> None:
    run = Budget(10.0)
    rich, poor = Purse(Budget(None, within=run)), Purse(Budget(1.0, within=run, name="teachers.poor.budget_usd"))
    for purse in (rich, poor):
        purse.learn(1.0)
    poor.settle(poor.reserve(), 1.0)
    assert poor.admits() == "stop"
    assert poor.exhausted_text().startswith("teachers.poor.budget_usd")
    for _ in range(9):
        assert rich.admits() == "go"
        rich.settle(rich.reserve(), 1.0)
    assert rich.admits() == "stop"
    assert rich.exhausted_text().startswith("labeling.budget_usd: $10.0000 of $10.0000")


def test_without_a_limit_all_goes_and_with_an_empty_one_nothing() -> None:
    free = Purse(Budget(None))
    assert not free.limited
    assert free.admits() == "go"
    assert Purse(Budget(0.0)).admits() == "stop"
