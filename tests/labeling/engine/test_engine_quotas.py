"""Quotas, learned limits and events: how a labeling run behaves towards servers and purses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill.labeling import errors
from distill.labeling.engine.engine import ask_teachers
from distill.labeling.engine.learned_limits import keep_limits, learned_limit
from distill.labeling.engine.limits import Learned, Limiter
from distill.labeling.engine.progress import LabelingResult, Progress
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.quota_config import QuotaConfig
from distill.labeling.task import Task

Label = Callable[..., tuple[pl.DataFrame, LabelingResult]]
Rows = Callable[..., pl.DataFrame]


def test_requests_a_minute_are_paced(teacher: Any, label: Label, make_rows: Rows, fake_time: Any) -> None:
    teacher.quota = QuotaConfig(requests_per_minute=120)
    began_s = fake_time.now_s
    _, result = label(make_rows(200), teacher)
    assert result.outcomes == {"labeled": 200}
    # Two go at once, then (120 - 2 + 1) / 60 a second: 198 take 99.8 s.
    assert fake_time.now_s - began_s == pytest.approx(198 / (119 / 60), rel=0.01)
    waits = result.teachers["judge"].quota_waits
    assert list(waits) == ["teachers.judge.quota.requests_per_minute"]
    assert sum(waits.values()) == pytest.approx(fake_time.now_s - began_s, rel=0.01)
    # What the ledger holds takes no quota.
    began_s = fake_time.now_s
    _, result = label(make_rows(200), teacher)
    assert (result.ledger_hits, fake_time.now_s) == (200, began_s)


def test_tokens_a_minute_of_the_run_are_shared(
    make_teacher: Any, label: Label, make_rows: Rows, fake_time: Any
) -> None:
    one, two = make_teacher("one"), make_teacher("two")
    two.model = "other"
    began_s = fake_time.now_s
    _, result = label(make_rows(50), one, two, quota={"tokens_per_minute": 600})
    assert result.outcomes == {"labeled": 100}
    # 100 answers of 12 tokens; the bucket holds 12 and is refilled by (600 - 12) / 60 = 9.8 a second. The first of each
    # teacher goes at once, since nothing is known of it.
    assert fake_time.now_s - began_s == pytest.approx(98 * 12 / 9.8, rel=0.03)


def test_dollars_a_minute_are_paced(teacher: Any, label: Label, make_rows: Rows, fake_time: Any) -> None:
    teacher.quota = QuotaConfig(usd_per_minute=15.0)
    began_s = fake_time.now_s
    label(make_rows(100), teacher)
    # $0.25 each; one fits into the bucket, which is refilled by (15 - 0.25) / 60 a second.
    assert fake_time.now_s - began_s == pytest.approx(98 * 0.25 / (14.75 / 60), rel=0.03)


@pytest.mark.parametrize(
    ("quota", "labeled", "words"),
    [
        ({"requests": 30}, 30, "teachers.judge.quota.requests: 30 of 30 are used"),
        ({"tokens": 300}, 25, "teachers.judge.quota.tokens: 300 of 300 are used"),  # 12 tokens an answer
    ],
)
def test_quota_in_all_stops_cleanly_and_the_next_run_goes_on(
    teacher: Any, label: Label, make_rows: Rows, quota: dict[str, int], labeled: int, words: str
) -> None:
    teacher.quota = QuotaConfig(**quota)
    votes, result = label(make_rows(100), teacher)
    assert result.stopped == "budget"
    assert result.outcomes == {"labeled": labeled, "unsent": 100 - labeled}
    assert words in (result.teachers["judge"].stopped or "")
    assert set(votes.filter(pl.col("outcome") == "unsent")["cause"]) == {"budget"}
    _, result = label(make_rows(100), teacher)
    assert result.outcomes["labeled"] == 2 * labeled


def test_a_teachers_own_budget_stops_it_and_no_other(make_teacher: Any, label: Label, make_rows: Rows) -> None:
    poor, rich = make_teacher("poor"), make_teacher("rich")
    poor.budget_usd, rich.model = 1.0, "other"
    _, result = label(make_rows(40), poor, rich)
    assert result.teachers["poor"].outcomes == {"labeled": 4, "unsent": 36}
    assert result.teachers["rich"].outcomes == {"labeled": 40}
    assert result.stopped == "budget"


@pytest.mark.parametrize("kind", [errors.SpendLimitError, errors.DailyQuotaError, errors.SchemaRejectedError])
def test_what_no_request_can_get_around_stops_the_teacher(
    kind: type[errors.TeacherError], teacher: Any, label: Label, make_rows: Rows
) -> None:
    teacher.always = kind("why")
    votes, result = label(make_rows(500), teacher)
    assert result.teachers["judge"].stopped == f"{kind.__name__}: why"
    assert result.requests_sent <= 8  # those in flight
    assert set(votes["cause"]) == {kind.cause}


def test_used_up_quota_that_a_reply_tells_of_pauses_before_anything_is_rejected(
    teacher: Any, label: Label, make_rows: Rows, fake_time: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = teacher.ask
    count = 0

    async def tell(request: Any) -> Any:
        nonlocal count
        count += 1
        reply = await ask(request)
        return type(reply)(reply.body, reply.latency_s, reply.cost_usd, quiet_s=20.0) if count == 5 else reply

    monkeypatch.setattr(teacher, "ask", tell)
    began_s = fake_time.now_s
    _, result = label(make_rows(30), teacher, concurrency=1)
    assert result.outcomes == {"labeled": 30}
    assert (fake_time.sleeps, fake_time.now_s) == ([20.0], began_s + 20)


def test_rows_that_wait_to_be_asked_again_do_not_hold_up_a_stop(
    teacher: Any, label: Label, make_rows: Rows, fake_time: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(seconds: float) -> None:
        await asyncio.Event().wait()  # for ever

    monkeypatch.setattr(fake_time, "_sleep", sleep)
    teacher.scripts = {"item0": [errors.OverloadedError("503")], "item5": [errors.WrongKeyError("401")]}
    votes, result = label(make_rows(6), teacher, concurrency=1)
    assert result.outcomes == {"labeled": 4, "failed": 2}
    assert votes.filter(pl.col("row_id") == "r0")["cause"].to_list() == ["overloaded"]


def test_a_pause_that_the_last_reply_asks_for_is_not_waited_for(
    teacher: Any, label: Label, make_rows: Rows, fake_time: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = teacher.ask

    async def tell(request: Any) -> Any:
        reply = await ask(request)
        return type(reply)(reply.body, reply.latency_s, reply.cost_usd, quiet_s=600.0)

    async def sleep(seconds: float) -> None:
        await asyncio.Event().wait()  # for ever: the test hangs where somebody waits for it

    monkeypatch.setattr(teacher, "ask", tell)
    monkeypatch.setattr(fake_time, "_sleep", sleep)
    _, result = label(make_rows(1), teacher)
    assert result.outcomes == {"labeled": 1}


def test_learned_limit_is_kept_for_the_next_run(teacher: Any, make_rows: Rows, task: Task, tmp_path: Path) -> None:
    teacher.endpoint, teacher.latency_s = "http://fake", 0.008
    config = LabelingConfig()

    def run(first: int) -> tuple[LabelingResult, list[Progress]]:
        states: list[Progress] = []
        with Ledger(tmp_path / "l.sqlite") as ledger:
            result = ask_teachers(
                [make_rows(1500, first=first)],
                task=task,
                teachers=[teacher],
                ledger=ledger,
                config=config,
                on_votes=lambda votes: None,
                on_progress=states.append,
            )
        return result, states

    _, states = run(0)
    events = [event for state in states for event in state.events]
    assert (events[0].kind, events[0].facts) == ("started", {"limit": 8, "rows": 1500})
    (ended,) = [event for event in events if event.kind == "ended"]
    assert ended.facts["outcomes"] == {"labeled": 1500}
    with Ledger(tmp_path / "l.sqlite") as ledger:
        learned = learned_limit(ledger, endpoint="http://fake", model="m")
        assert learned is not None
        assert learned_limit(ledger, endpoint="http://fake", model="another") is None
    _, states = run(5000)
    assert next(event for state in states for event in state.events).facts["limit"] == Limiter(learned=learned).limit


def test_limits_of_an_empty_ledger_and_again(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert learned_limit(ledger, endpoint="e", model="m") is None
        keep_limits(ledger, {("e", "m"): Learned(40, False), ("e", "n"): Learned(3, True)})
        keep_limits(ledger, {("e", "m"): Learned(50, True)})
        assert learned_limit(ledger, endpoint="e", model="m") == Learned(50, True)
        assert learned_limit(ledger, endpoint="e", model="n") == Learned(3, True)


def test_progress_forecasts_time_and_cost(teacher: Any, make_rows: Rows, task: Task, tmp_path: Path) -> None:
    teacher.latency_s = 0.002
    states: list[Progress] = []
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ask_teachers(
            [make_rows(2000)],
            task=task,
            teachers=[teacher],
            ledger=ledger,
            config=LabelingConfig(concurrency=8),
            on_votes=lambda votes: None,
            on_progress=states.append,
        )
    # The last one: of the first few answers, some are paid for and not yet counted as done.
    middle = [state.teachers[0] for state in states if 0 < state.teachers[0].tally.done < 2000][-1]
    left = 2000 - middle.tally.done
    assert middle.left_s == pytest.approx(left / middle.rows_per_s)
    assert middle.tokens_per_s == pytest.approx(12 * middle.rows_per_s, rel=0.1)
    assert middle.forecast_usd == pytest.approx(500.0, rel=0.05)  # 2,000 x $0.25
    last = states[-1].teachers[0]
    assert (last.left_s, last.forecast_usd) == (0.0, 500.0)
