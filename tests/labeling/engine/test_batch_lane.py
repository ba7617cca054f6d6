from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill.labeling import errors
from distill.labeling.engine.batch_config import BatchConfig
from distill.labeling.engine.batch_journal import BatchJournal
from distill.labeling.engine.progress import LabelingResult
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task

Label = Callable[..., tuple[pl.DataFrame, LabelingResult]]
Rows = Callable[..., pl.DataFrame]


@pytest.fixture
def judge(make_teacher: Any, fake_batches: Any) -> Any:
    """A teacher that goes by batch, at a provider whose jobs outlive the run."""
    teacher = make_teacher()
    teacher.endpoint, teacher.batches, teacher.batch = "http://fake", fake_batches, BatchConfig()
    return teacher


def ends_of(votes: pl.DataFrame) -> dict[tuple[str, str | None], int]:
    return {(outcome, cause): count for outcome, cause, count in votes.group_by("outcome", "cause").len().iter_rows()}


def job_states(folder: Path) -> list[tuple[str, int]]:
    """How the jobs of the journal ended, with the number of keys that it still holds."""
    connection = sqlite3.connect(folder / "ledger.sqlite")
    keys = connection.execute("SELECT count(*) FROM batch_keys").fetchone()[0]
    return [(state, keys) for (state,) in connection.execute("SELECT state FROM batch_jobs ORDER BY created_s, tag")]


def test_rows_go_in_jobs_and_none_is_asked_live(judge: Any, label: Label, make_rows: Rows, tmp_path: Path) -> None:
    votes, result = label(make_rows(120), judge)
    assert ends_of(votes) == {("labeled", None): 120}
    assert not judge.asked
    # 120 rows in jobs of at most 50.
    assert [len(job.requests) for job in judge.batches.jobs.values()] == [50, 50, 20]
    assert set(judge.batches.sent.values()) == {1}
    tally = result.teachers["judge"]
    assert (result.requests_sent, tally.batch_jobs, result.cost_usd) == (120, 3, 15.0)  # 120 x $0.125
    assert not votes["from_ledger"].any()
    assert job_states(tmp_path) == [("ended", 0)] * 3

    again, result = label(make_rows(120), judge)
    assert (result.requests_sent, result.ledger_hits, result.cost_usd) == (0, 120, 0.0)
    assert again.drop("from_ledger").equals(votes.drop("from_ledger"))


def test_jobs_run_beside_each_other(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batches.over_after = 4
    label(make_rows(200), judge)
    assert judge.batches.most_open == 4


def test_looks_come_less_and_less_often(judge: Any, label: Label, make_rows: Rows, fake_time: Any) -> None:
    judge.batches.over_after = 14
    label(make_rows(1), judge)
    # 10 s, each time half as long again, never more than 5 minutes: 10 x 1.5^8 = 256, 10 x 1.5^9 = 384.
    assert fake_time.sleeps[:3] == pytest.approx([10, 15, 22.5])
    assert fake_time.sleeps[8:14] == pytest.approx([256.3, 300, 300, 300, 300, 300], rel=1e-3)


def test_same_rows_are_submitted_once_however_many_there_are(judge: Any, label: Label, make_rows: Rows) -> None:
    rows = make_rows(3000).with_columns(title=pl.lit("the same item"))
    votes, _ = label(rows, judge)
    assert ends_of(votes) == {("labeled", None): 3000}
    assert sum(judge.batches.sent.values()) == 1


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_an_unfinished_job_left_goes_into_the_next(judge: Any, label: Label, make_rows: Rows, end: str) -> None:
    judge.batches.ends = [end]
    votes, result = label(make_rows(40), judge)
    assert ends_of(votes) == {("labeled", None): 40}
    assert [len(job.requests) for job in judge.batches.jobs.values()] == [40, 20]
    assert result.teachers["judge"].retries == {"batch_unfinished": 20}
    assert result.cost_usd == 40 * 0.125


def test_jobs_that_never_finish_anything_are_given_up(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batches.ends, judge.batches.share = ["expired"] * 9, 0.0
    votes, _ = label(make_rows(10), judge, retries=2, stop_after_failures=None)
    assert len(judge.batches.jobs) == 3
    assert ends_of(votes) == {("failed", "batch_unfinished"): 10}


def test_errors_of_single_requests_end_as_they_do_live(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batches.steps = {
        "item1": [errors.OverloadedError("500")],
        "item2": [errors.OverloadedError("500")] * 9,
        "item3": [errors.RequestRejectedError("400: too long")],
        "item4": ["prose"],
        "item5": ["prose", "prose again"],
        "item6": ['{"label": null}'],
    }
    votes, result = label(make_rows(20), judge, retries=2)
    got = {row_id: (outcome, cause) for row_id, outcome, cause in votes.select("row_id", "outcome", "cause").rows()}
    assert got["r1"] == got["r4"] == ("labeled", None)
    assert got["r2"] == ("failed", "overloaded")
    assert got["r3"] == ("failed", "request_rejected")
    assert got["r5"] == ("invalid", "misfit")
    assert got["r6"] == ("abstained", "abstained")
    # item1, item2, and the re-asks of item4 and item5 in the second job; item2 in the third, its last.
    assert [len(job.requests) for job in judge.batches.jobs.values()] == [20, 4, 1]
    assert votes.height == 20 == result.outcomes.total()


def test_a_refused_job_stops_the_teacher_with_its_rows_unsent(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batches.ends = [errors.SpendLimitError("no credit")]
    votes, result = label(make_rows(120), judge)
    # One job was refused at its second look; the other two were there already, and are taken.
    assert ends_of(votes) == {("labeled", None): 70, ("unsent", "spend_limit"): 50}
    assert "no credit" in (result.teachers["judge"].stopped or "")
    votes, _ = label(make_rows(120), judge)
    assert ends_of(votes) == {("labeled", None): 120}


def test_submitting_without_the_right_to_stops_the_teacher(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batches.errors = {"submit": [errors.WrongKeyError("401")]}
    votes, _ = label(make_rows(10), judge)
    assert ends_of(votes) == {("unsent", "wrong_key"): 10}


def test_too_much_at_once_waits_for_a_job_to_end_or_takes_less(judge: Any, label: Label, make_rows: Rows) -> None:
    too_much = [errors.RateLimitError("enqueued tokens")]
    judge.batches.ends = [*too_much]  # with another job under way
    votes, result = label(make_rows(100), judge)
    assert ends_of(votes) == {("labeled", None): 100}
    assert not result.teachers["judge"].retries

    judge.batches.ends = [*too_much]  # and alone
    votes, result = label(make_rows(40, first=500), judge)
    assert ends_of(votes) == {("labeled", None): 40}
    assert [len(job.requests) for job in judge.batches.jobs.values()][-3:] == [40, 20, 20]


def test_a_submission_that_nobody_heard_of_is_found(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batches.after_submit = [errors.ConnectionFailedError("cut"), RuntimeError("a bug in the service")]
    judge.batches.hidden_for = 3  # the list lags
    votes, _ = label(make_rows(100), judge)
    assert ends_of(votes) == {("labeled", None): 100}
    assert set(judge.batches.sent.values()) == {1}


def test_a_submission_that_never_arrived_is_made_anew_after_a_while(
    judge: Any, label: Label, make_rows: Rows, fake_time: Any
) -> None:
    judge.batches.errors = {"submit": [errors.ConnectionFailedError("refused")]}
    votes, _ = label(make_rows(30), judge)
    assert ends_of(votes) == {("labeled", None): 30}
    assert set(judge.batches.sent.values()) == {1}
    assert fake_time.now_s - 1000 > 60  # looked for over the whole grace


def test_a_provider_that_cannot_be_asked_for_a_while(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batches.errors = {
        "status": [errors.OverloadedError("503")] * 5,
        "results": [errors.ConnectionFailedError("cut")] * 2,
    }
    votes, result = label(make_rows(30), judge)
    assert ends_of(votes) == {("labeled", None): 30}
    assert (result.cost_usd, set(judge.batches.sent.values())) == (30 * 0.125, {1})


def test_a_provider_that_cannot_be_asked_for_an_hour_leaves_rows_to_be_picked_up(
    judge: Any, label: Label, make_rows: Rows
) -> None:
    judge.batches.errors = {"status": [errors.OverloadedError("503")] * 100}
    votes, result = label(make_rows(30), judge)
    assert ends_of(votes) == {("unsent", "in_batch"): 30}
    assert result.stopped == "in_batch"
    judge.batches.errors = {}
    votes, _ = label(make_rows(30), judge)
    assert ends_of(votes) == {("labeled", None): 30}
    assert set(judge.batches.sent.values()) == {1}


def test_without_waiting_the_same_command_picks_jobs_up(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batch = BatchConfig(wait=False)
    judge.batches.over_after = 99
    votes, result = label(make_rows(120), judge)
    assert ends_of(votes) == {("unsent", "in_batch"): 120}
    assert (result.stopped, result.cost_usd) == ("in_batch", 0.0)
    assert "job-" in votes["reason"][0]

    votes, result = label(make_rows(130), judge)  # still running: only what is new is submitted
    assert ends_of(votes) == {("unsent", "in_batch"): 130}
    assert sum(judge.batches.sent.values()) == 130

    judge.batches.over_after = 1
    votes, result = label(make_rows(130), judge)
    assert ends_of(votes) == {("labeled", None): 130}
    assert (result.stopped, result.cost_usd, result.requests_sent) == (None, 130 * 0.125, 0)
    assert set(judge.batches.sent.values()) == {1}


def test_waiting_ends_after_wait_s(judge: Any, label: Label, make_rows: Rows, fake_time: Any) -> None:
    judge.batch, judge.batches.over_after = BatchConfig(wait_s=3600), 999
    votes, _ = label(make_rows(3), judge)
    assert ends_of(votes) == {("unsent", "in_batch"): 3}
    assert 3600 <= fake_time.now_s - 1000 < 3700


def test_open_jobs_are_waited_for_also_where_batch_is_off_now(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batch, judge.batches.over_after = BatchConfig(wait=False), 3
    label(make_rows(40), judge)
    judge.batch = None
    votes, _ = label(make_rows(1500), judge)
    assert ends_of(votes) == {("labeled", None): 1500}
    assert len(judge.asked) == 1460 and set(judge.asked.values()) == {1}
    assert not set(judge.asked) & set(judge.batches.sent)


def test_results_that_nobody_wants_any_more_are_kept(judge: Any, label: Label, make_rows: Rows, tmp_path: Path) -> None:
    judge.batch = BatchConfig(wait=False)
    label(make_rows(40), judge)
    judge.batches.over_after = 1
    _, result = label(make_rows(1), judge)
    assert result.cost_usd == 40 * 0.125
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert len(ledger) == 40
        assert not BatchJournal(ledger).open_jobs()


def test_stragglers_go_live_where_asked_to(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batch = BatchConfig(live_tail=True)
    judge.batches.ends = ["expired"]
    judge.batches.steps = {"item3": ["prose"], "item4": [errors.OverloadedError("500")]}
    votes, result = label(make_rows(40), judge)
    assert ends_of(votes) == {("labeled", None): 40}
    assert len(judge.batches.jobs) == 1
    # The half that was not finished, one re-ask and one failure; live they cost twice as much.
    assert sum(judge.asked.values()) == 22
    assert result.cost_usd == 19 * 0.125 + 22 * 0.25


def test_a_slow_job_is_cancelled_and_its_rest_asked_live(
    judge: Any, label: Label, make_rows: Rows, fake_time: Any
) -> None:
    judge.batch = BatchConfig(live_tail=True, live_tail_after_s=1800)
    judge.batches.over_after = 999
    votes, _ = label(make_rows(40), judge)
    assert ends_of(votes) == {("labeled", None): 40}
    assert sum(judge.asked.values()) == 20
    assert not {key for key in judge.asked if judge.batches.sent[key] > 1}
    assert 1800 <= fake_time.now_s - 1000 < 1900


def test_budget_is_set_aside_before_anything_is_submitted(judge: Any, label: Label, make_rows: Rows) -> None:
    # Estimated at $0.10 each, $4.20 bear 42 rows; they cost $0.125, so $5.25: what estimates are off for.
    votes, result = label(make_rows(120), judge, budget_usd=4.2)
    assert ends_of(votes) == {("labeled", None): 42, ("unsent", "budget"): 78}
    assert result.stopped == "budget"
    # The next run knows what rows cost: 33 x $0.125 = $4.125.
    votes, result = label(make_rows(120), judge, budget_usd=4.2)
    assert ends_of(votes) == {("labeled", None): 42 + 33, ("unsent", "budget"): 45}
    assert (result.cost_usd, set(judge.batches.sent.values())) == (33 * 0.125, {1})


def test_jobs_of_an_earlier_run_count_in_the_budget(judge: Any, label: Label, make_rows: Rows) -> None:
    judge.batch, judge.batches.over_after = BatchConfig(wait=False), 2
    label(make_rows(30), judge, budget_usd=4.0)
    judge.batch = BatchConfig()
    # $3 are set aside for the 30 rows until they turn out to cost $3.75; the rest bears 2 more.
    votes, _ = label(make_rows(60), judge, budget_usd=4.0)
    assert ends_of(votes) == {("labeled", None): 32, ("unsent", "budget"): 28}


def test_live_and_batch_teachers_share_a_budget(judge: Any, make_teacher: Any, label: Label, make_rows: Rows) -> None:
    live = make_teacher("live")
    live.model = "another"
    votes, result = label(make_rows(40), judge, live, budget_usd=9.0)
    assert result.cost_usd <= 9.0 + 40 * 0.025  # by what the first job's estimate was off
    assert votes.height == 80
    assert result.stopped == "budget"


def test_a_request_too_large_for_any_job_is_its_rows_fault(
    judge: Any, label: Label, make_rows: Rows, task: Task
) -> None:
    rows = make_rows(10).with_columns(
        title=pl.when(pl.col("row_id") == "r3").then(pl.lit("long " * 700)).otherwise("title")
    )
    sizes = sorted(len(judge.compile(Prompter(task, judge.answer)(row), sample=0).body) for row in rows.to_dicts())
    judge.batches.most_bytes = sizes[-1] - 1
    votes, _ = label(rows, judge)
    assert ends_of(votes) == {("labeled", None): 9, ("failed", "request_rejected"): 1}
    assert all(sum(len(one.body) for one in job.requests) < sizes[-1] for job in judge.batches.jobs.values())


def test_progress_tells_of_jobs(judge: Any, label: Label, make_rows: Rows) -> None:
    seen: list[Any] = []
    judge.batches.over_after = 3
    label(make_rows(120), judge, on_progress=seen.append)
    events = [event for state in seen for event in state.events if event.kind == "batch"]
    assert [event.facts["what"] for event in events] == ["submitted"] * 3 + ["ended"] * 3
    assert events[0].facts["requests"] == 50
