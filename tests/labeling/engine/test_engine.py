from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill.labeling import errors
from distill.labeling.engine.engine import ask_teachers
from distill.labeling.engine.progress import LabelingResult, Progress
from distill.labeling.guideline import Guideline
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.file import connect
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.task import Task
from distill.labeling.vote import OUTCOMES, VOTE_SCHEMA, Vote, votes_frame

Label = Callable[..., tuple[pl.DataFrame, LabelingResult]]
Rows = Callable[..., pl.DataFrame]


def outcome_of(votes: pl.DataFrame, row_id: str) -> tuple[str, str | None]:
    return votes.filter(pl.col("row_id") == row_id).select("outcome", "reason").row(0)


def test_every_row_ends_once_and_is_served_from_the_ledger_the_second_time(
    teacher: Any, label: Label, make_rows: Rows
) -> None:
    votes, result = label(make_rows(500), teacher)
    assert dict(votes.schema) == VOTE_SCHEMA
    assert votes["row_id"].n_unique() == votes.height == 500
    assert (result.requests_sent, result.ledger_hits, result.cost_usd) == (500, 0, 125.0)  # 500 x $0.25
    assert result.outcomes == {"labeled": 500}
    first = votes.row(0, named=True)
    assert (first["label"], first["from_ledger"], first["latency_s"]) == ("exact", False, 0.5)
    assert (first["cost_usd"], first["input_tokens"], first["output_tokens"]) == (0.25, 10, 2)

    again, result = label(make_rows(500), teacher)
    assert (result.requests_sent, result.ledger_hits, result.cost_usd) == (0, 500, 0.0)
    assert again["from_ledger"].all()
    assert again.drop("from_ledger").equals(votes.drop("from_ledger"))
    assert set(teacher.asked.values()) == {1}
    assert teacher.closed == 2


def test_appending_and_reordering_pay_only_for_what_is_new(teacher: Any, label: Label, make_rows: Rows) -> None:
    label(make_rows(300), teacher)
    _, result = label(make_rows(320).reverse(), teacher)
    assert (result.requests_sent, result.ledger_hits) == (20, 300)
    assert set(teacher.asked.values()) == {1}


def test_samples_are_bought_apart(teacher: Any, label: Label, make_rows: Rows) -> None:
    votes, result = label(make_rows(20), teacher, samples=3)
    assert result.requests_sent == len(teacher.asked) == 60
    assert votes.group_by("row_id").agg(pl.col("sample").sort())["sample"].to_list() == [[0, 1, 2]] * 20
    assert votes["key"].n_unique() == 60


def test_same_request_is_asked_once_and_fanned_out(teacher: Any, label: Label, make_rows: Rows) -> None:
    rows = make_rows(40).with_columns(title=pl.lit("the same item"))
    votes, result = label(rows, teacher)
    assert (result.requests_sent, result.ledger_hits) == (1, 39)
    assert votes.height == 40
    # What the votes say was paid is what was paid.
    assert votes.filter(~pl.col("from_ledger"))["cost_usd"].to_list() == [0.25]


def test_teachers_that_send_the_same_request_share_its_answer(make_teacher: Any, label: Label, make_rows: Rows) -> None:
    one, two = make_teacher("one"), make_teacher("two")
    votes, result = label(make_rows(200), one, two)
    assert sum(one.asked.values()) + sum(two.asked.values()) == 200 == result.requests_sent
    assert votes["teacher"].value_counts().sort("teacher")["count"].to_list() == [200, 200]
    # A failure of one is not a failure of the other.
    rows = make_rows(1, first=900)
    one.always, two.model = errors.RequestRejectedError("no"), one.model
    votes, _ = label(rows, one, two)
    assert votes["outcome"].to_list() in (["failed", "labeled"], ["labeled", "labeled"])


def test_outcomes_add_up_with_every_failure_there_is(teacher: Any, label: Label, make_rows: Rows) -> None:
    teacher.scripts = {
        "item1": [errors.OverloadedError("503"), errors.TeacherTimeoutError("slow"), errors.BadReplyError("<html>")],
        "item2": [errors.ConnectionFailedError("refused")] * 9,
        "item3": [errors.RequestRejectedError("400: too long")],
        "item4": ["no answer at all", '{"label": "exact"}'],
        "item5": ["prose", "prose again"],
        "item6": [("length", '{"lab')],
        "item7": [("length", '{"label": "irrelevant"}')],
        "item8": [("filtered", "")],
        "item9": [("refused", "I cannot help with that.")],
        "item10": ['{"label": null}'],
        "item11": [RuntimeError("a bug in the teacher")],
        "item12": [errors.RateLimitError("429", retry_after_s=7.0)],
        "item13": [("stop", '{"label": "great match"}'), errors.RequestRejectedError("400")],
    }
    teacher.uncompilable, teacher.unanswerable = {"r14"}, {"r15"}
    votes, result = label(make_rows(100), teacher, retries=3, samples=1)
    got = {row_id: outcome_of(votes, row_id) for row_id in (f"r{n}" for n in range(16))}
    assert got["r0"] == got["r1"] == got["r4"] == got["r7"] == got["r12"] == ("labeled", None)
    assert got["r2"] == ("failed", "ConnectionFailedError: refused")
    assert got["r3"] == ("failed", "RequestRejectedError: 400: too long")
    assert got["r5"][0] == "invalid" and "prose again" in got["r5"][1]
    assert got["r6"][0] == "invalid" and got["r6"][1].startswith("truncated at max_tokens (2 tokens)")
    assert got["r8"] == ("filtered", "the provider withheld the answer")
    assert got["r9"] == ("refused", "the model declined: I cannot help with that.")
    assert got["r10"] == ("abstained", "the teacher said that it cannot tell")
    assert got["r11"] == ("failed", "RuntimeError('a bug in the teacher')")
    assert got["r13"] == ("failed", "RequestRejectedError: 400")
    assert got["r14"] == ("failed", "ZeroDivisionError('a bug')")
    assert got["r15"] == ("unsent", "no recorded reply for row r15")
    # r2 r3 r11 r13 r14 failed, r5 r6 invalid; the rest of 100 but r8 r9 r10 r15.
    counts = {"failed": 5, "invalid": 2, "filtered": 1, "refused": 1, "abstained": 1, "unsent": 1, "labeled": 89}
    assert result.outcomes == counts
    assert votes["row_id"].n_unique() == votes.height == 100
    assert set(votes["outcome"]) <= set(OUTCOMES)
    assert votes.filter(pl.col("outcome") != "labeled")["reason"].null_count() == 0
    tally = result.teachers["judge"]
    retried = {"overloaded": 1, "timeout": 1, "bad_reply": 1, "connection": 3}
    assert tally.retries == {**retried, "minute_quota": 1}
    causes = dict(votes.filter(pl.col("cause").is_not_null()).select("row_id", "cause").iter_rows())
    rejected = {"r3": "request_rejected", "r13": "request_rejected"}
    misfits = {"r5": "misfit", "r6": "truncated", "r8": "filtered", "r9": "refused", "r10": "abstained"}
    assert causes == {**rejected, **misfits, "r2": "connection", "r11": "error", "r14": "error", "r15": "no_reply"}
    assert set(causes.values()) <= set(errors.CAUSES)
    assert tally.reasks == 3  # r4, r5, r13

    # Failures are not answers: only what has none is asked again, and now all is well.
    teacher.scripts.clear()
    before = sum(teacher.asked.values())
    votes, result = label(make_rows(100), teacher)
    assert outcome_of(votes, "r2") == outcome_of(votes, "r11") == ("labeled", None)
    assert sum(teacher.asked.values()) - before == 4  # r2, r3, r11 and the second question of r13


def test_answer_that_does_not_fit_is_asked_for_again_with_the_reason(
    teacher: Any, label: Label, make_rows: Rows
) -> None:
    teacher.scripts = {"item0": ['{"label": "great match"}', '{"label": "substitute"}']}
    votes, result = label(make_rows(1), teacher)
    vote = votes.row(0, named=True)
    assert (vote["outcome"], vote["label"]) == ("labeled", "substitute")
    # Two replies were paid for: tokens and cost are of both, the key is of the one that decided.
    assert (vote["input_tokens"], vote["output_tokens"], vote["cost_usd"]) == (20, 4, 0.5)
    assert (result.requests_sent, result.cost_usd) == (2, 0.5)
    first, second = teacher.asked
    assert vote["key"] == second.hex() != first.hex()
    # Both are in the ledger.
    again, result = label(make_rows(1), teacher)
    assert (result.requests_sent, result.ledger_hits) == (0, 2)
    assert again.drop("from_ledger").equals(votes.drop("from_ledger"))


def test_reasks_are_bounded(teacher: Any, label: Label, make_rows: Rows) -> None:
    teacher.always = "prose"
    votes, _ = label(make_rows(1), teacher, reasks=3)
    assert outcome_of(votes, "r0")[0] == "invalid"
    assert sum(teacher.asked.values()) == 4
    # With more allowed, only the further ones are bought.
    _, result = label(make_rows(1), teacher, reasks=4)
    assert (result.requests_sent, result.ledger_hits) == (1, 4)


def test_wrong_key_stops_its_teacher_and_no_other(make_teacher: Any, label: Label, make_rows: Rows) -> None:
    good, bad = make_teacher("good"), make_teacher("bad")
    bad.model = "other"
    label(make_rows(100), bad)  # what the ledger holds is served also after the stop
    bad.always = errors.WrongKeyError("401: wrong key")
    votes, result = label(make_rows(2000), good, bad)
    assert result.teachers["good"].outcomes == {"labeled": 2000}
    outcomes = result.teachers["bad"].outcomes
    assert outcomes["labeled"] == 100
    assert 1 <= outcomes["failed"] <= 8  # those in flight
    assert outcomes.total() == 2000
    assert outcomes["unsent"] == 1900 - outcomes["failed"]
    assert result.teachers["bad"].stopped == "WrongKeyError: 401: wrong key"
    reasons = votes.filter(pl.col("outcome") == "unsent")["reason"].unique().to_list()
    assert reasons == ["the teacher was stopped: WrongKeyError: 401: wrong key"]
    assert result.stopped is None


def test_teacher_that_fails_most_rows_is_stopped_early(teacher: Any, label: Label, make_rows: Rows) -> None:
    teacher.always = errors.ConnectionFailedError("refused")
    _, result = label(make_rows(1000), teacher, retries=1)
    tally = result.teachers["judge"]
    assert tally.outcomes["unsent"] > 900
    assert tally.outcomes.total() == 1000
    assert tally.stopped.startswith("50 of the last 50 rows asked failed or did not fit, the last one with: Connection")
    _, result = label(make_rows(1000), teacher, retries=0, stop_after_failures=None)
    assert result.outcomes == {"failed": 1000}


def test_teacher_that_breaks_half_way_is_stopped(teacher: Any, label: Label, make_rows: Rows) -> None:
    teacher.scripts = {f"item{n}": [errors.RequestRejectedError("no")] for n in range(600, 1000)}
    _, result = label(make_rows(1000), teacher, stop_after_failures={"fraction": 0.5, "of_last": 20})
    tally = result.teachers["judge"]
    assert 590 <= tally.outcomes["labeled"] <= 610
    assert 10 <= tally.outcomes["failed"] <= 30


def test_retries_back_off_and_retry_after_pauses_the_teacher(
    teacher: Any, label: Label, make_rows: Rows, fake_time: Any
) -> None:
    teacher.scripts = {"item0": [errors.OverloadedError("503")] * 4}
    label(make_rows(1), teacher)
    assert fake_time.sleeps == [0.5, 1.0, 2.0, 4.0]  # half of 1, 2, 4, 8
    fake_time.sleeps.clear()
    teacher.scripts = {"item1": [errors.RateLimitError("429", retry_after_s=30.0)]}
    before_s = fake_time.now_s
    label(make_rows(2), teacher)
    assert fake_time.sleeps == [30.0]
    assert fake_time.now_s == before_s + 30


def test_very_long_retry_after_stops_the_teacher(teacher: Any, label: Label, make_rows: Rows) -> None:
    teacher.always = errors.RateLimitError("429: daily quota", retry_after_s=40_000.0)
    _, result = label(make_rows(100), teacher)
    assert "asks to wait 40000 s" in result.teachers["judge"].stopped
    assert result.outcomes.total() == 100


def test_concurrency_is_kept_and_found(teacher: Any, make_teacher: Any, label: Label, make_rows: Rows) -> None:
    teacher.latency_s = 0.001
    label(make_rows(200), teacher, concurrency=5)
    assert teacher.most_in_flight == 5
    modest = make_teacher("modest", max_concurrency=3)
    modest.latency_s, modest.model = 0.001, "other"
    label(make_rows(100), modest, concurrency=5)
    assert modest.most_in_flight == 3
    free = make_teacher("free")
    free.latency_s, free.model = 0.001, "third"
    label(make_rows(1500), free, concurrency="auto")
    assert free.most_in_flight >= 16  # it began with 8


def test_budget_stop_is_clean_and_the_next_run_goes_on(teacher: Any, label: Label, make_rows: Rows) -> None:
    votes, result = label(make_rows(100), teacher, budget_usd=5.0)
    # 20 answers at $0.25 are $5; every price is known from the first answer on, so that none is bought beyond.
    assert result.stopped == "budget"
    assert result.outcomes == {"labeled": 20, "unsent": 80}
    assert result.cost_usd == 5.0
    assert "labeling.budget_usd: $5.0000 of $5.0000 is spent" in result.teachers["judge"].stopped
    assert votes.filter(pl.col("outcome") == "unsent")["reason"].str.contains("budget").all()
    _, result = label(make_rows(100), teacher, budget_usd=5.0)
    assert result.outcomes == {"labeled": 40, "unsent": 60}
    _, result = label(make_rows(100), teacher)
    assert (result.outcomes, result.stopped, result.requests_sent) == ({"labeled": 100}, None, 60)


def test_budget_is_shared_by_teachers_and_nothing_goes_without_one(
    make_teacher: Any, label: Label, make_rows: Rows
) -> None:
    one, two = make_teacher("one"), make_teacher("two")
    two.model = "other"
    _, result = label(make_rows(100), one, two, budget_usd=5.0)
    assert result.cost_usd == 5.0
    assert result.outcomes.total() == 200
    _, result = label(make_rows(100), one, two, budget_usd=0)
    assert (result.requests_sent, result.outcomes["labeled"]) == (0, 20)


def test_unknown_prices_are_counted(teacher: Any, label: Label, make_rows: Rows) -> None:
    teacher.cost_usd = None
    votes, result = label(make_rows(30), teacher, budget_usd=1.0)
    assert result.outcomes == {"labeled": 30}
    assert result.teachers["judge"].unpriced == 30
    assert votes["cost_usd"].null_count() == 30


def test_one_shot_iterators_are_shared_and_rows_stream(
    make_teacher: Any, make_rows: Rows, task: Task, tmp_path: Path
) -> None:
    slow, fast, produced, lead = make_teacher("slow"), make_teacher("fast"), [], []
    slow.model, slow.latency_s = "other", 0.002

    def batches() -> Any:
        for first in range(0, 3000, 100):
            produced.append(first)
            lead.append(first + 100 - sum(slow.asked.values()))
            yield make_rows(100, first=first)

    votes: list[pl.DataFrame] = []
    with Ledger(tmp_path / "l.sqlite") as ledger:
        result = ask_teachers(
            batches(),
            task=task,
            teachers=[slow, fast],
            ledger=ledger,
            config=LabelingConfig(concurrency=64),
            on_votes=votes.append,
        )
    assert produced == list(range(0, 3000, 100))
    assert result.outcomes == {"labeled": 6000}
    assert pl.concat(votes).n_unique(["row_id", "teacher"]) == 6000
    assert max(lead) < 2000  # the fast one does not pull the whole table into memory ahead of the slow one
    assert len(votes) > 2


def test_callbacks_run_in_the_callers_thread_also_inside_a_running_loop(
    teacher: Any, make_rows: Rows, task: Task, tmp_path: Path
) -> None:
    threads, progress = set(), []

    def batches() -> Any:
        threads.add(threading.get_ident())
        yield make_rows(10)

    def on_progress(now: Progress) -> None:
        threads.add(threading.get_ident())
        progress.append(now)

    async def notebook() -> LabelingResult:
        with Ledger(tmp_path / "l.sqlite") as ledger:
            return ask_teachers(
                batches(),
                task=task,
                teachers=[teacher],
                ledger=ledger,
                config=LabelingConfig(),
                on_votes=lambda votes: threads.add(threading.get_ident()),
                on_progress=on_progress,
            )

    assert asyncio.run(notebook()).outcomes == {"labeled": 10}
    assert threads == {threading.get_ident()}
    last = progress[-1].teachers[0]
    assert (last.name, last.tally.done, last.in_flight, last.total) == ("judge", 10, 0, None)
    assert progress[-1].cost_usd == 2.5


def test_guideline_version_is_on_the_votes(teacher: Any, make_rows: Rows, tmp_path: Path) -> None:
    guideline = Guideline.parse("version: 3\n\n- **E1 Rule.** Text.")
    task = Task(labels=("a", "b"), inputs=("query", "title"), guideline=guideline)
    teacher.always = '{"label": "a", "clauses": ["E1", "E7"]}'
    votes: list[pl.DataFrame] = []
    with Ledger(tmp_path / "l.sqlite") as ledger:
        config = LabelingConfig()
        ask_teachers([make_rows(1)], task=task, teachers=[teacher], ledger=ledger, config=config, on_votes=votes.append)
    assert votes[0].select("guideline_version", "clauses").row(0) == ("3", ["E1"])


def test_mistakes_of_the_caller_are_errors(teacher: Any, make_teacher: Any, label: Label, make_rows: Rows) -> None:
    with pytest.raises(errors.UsageError, match="names"):
        label(make_rows(1))
    with pytest.raises(errors.UsageError, match="'judge', 'judge'"):
        label(make_rows(1), teacher, make_teacher())
    with pytest.raises(errors.DataError, match=r"needs the columns \['title'\]"):
        label(make_rows(1).drop("title"), teacher)
    assert label(make_rows(0), teacher)[1].outcomes == {}


def test_error_in_a_callback_ends_the_run_and_what_was_answered_is_kept(
    teacher: Any, make_rows: Rows, task: Task, tmp_path: Path
) -> None:
    def full(votes: pl.DataFrame) -> None:
        raise OSError("no space left")

    with Ledger(tmp_path / "l.sqlite") as ledger:
        config = LabelingConfig()
        with pytest.raises(OSError, match="no space left"):
            ask_teachers([make_rows(5000)], task=task, teachers=[teacher], ledger=ledger, config=config, on_votes=full)
        assert len(ledger) >= 2048


def test_teacher_that_cannot_be_opened_is_stopped(make_teacher: Any, label: Label, make_rows: Rows) -> None:
    good, bad = make_teacher("good"), make_teacher("bad")

    async def refuse() -> None:
        raise errors.ConnectionFailedError("no server")

    bad.open, bad.model = refuse, "other"
    _, result = label(make_rows(10), good, bad)
    assert result.teachers["bad"].outcomes == {"unsent": 10}
    assert result.teachers["good"].outcomes == {"labeled": 10}
    assert bad.closed == 0


def test_teachers_open_at_the_same_time(make_teacher: Any, label: Label, make_rows: Rows) -> None:
    one, other = make_teacher("one"), make_teacher("other")
    both = asyncio.Barrier(2)

    async def meet() -> None:
        await asyncio.wait_for(both.wait(), 10)  # one after the other they would never meet

    one.open = other.open = meet
    other.model = "other"
    _, result = label(make_rows(4), one, other)
    assert [tally.outcomes["labeled"] for tally in result.teachers.values()] == [4, 4]


def test_a_teacher_that_cannot_be_closed_keeps_no_other_open(make_teacher: Any, label: Label, make_rows: Rows) -> None:
    good, bad = make_teacher("good"), make_teacher("bad")

    async def stuck() -> None:
        raise OSError("stuck")

    bad.close, bad.model = stuck, "other"
    with pytest.raises(OSError, match="stuck"):
        label(make_rows(4), bad, good)
    assert good.closed == 1


def test_interrupt_stops_sending_and_keeps_what_was_answered(
    teacher: Any, make_rows: Rows, task: Task, tmp_path: Path
) -> None:
    teacher.latency_s = 0.005
    votes: list[pl.DataFrame] = []

    def interrupt() -> None:
        while sum(teacher.asked.values()) < 300:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    with Ledger(tmp_path / "l.sqlite") as ledger:
        config = LabelingConfig(concurrency=32)
        thread = threading.Thread(target=interrupt)
        thread.start()
        began_s = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask_teachers(
                [make_rows(100_000)], task=task, teachers=[teacher], ledger=ledger, config=config, on_votes=votes.append
            )
        assert time.monotonic() - began_s < 10  # all of it would take 16 s at the very least: 100,000 x 5 ms / 32
        thread.join()
        asked, held = sum(teacher.asked.values()), len(ledger)
    assert teacher.in_flight == 0
    assert teacher.closed == 1
    assert asked - 32 <= held <= asked  # what is not held was in flight
    assert 0 < sum(part.height for part in votes) <= held
    # The next run pays for nothing that is held.
    teacher.latency_s = 0.0
    with Ledger(tmp_path / "l.sqlite") as ledger:
        result = ask_teachers(
            [make_rows(held + 50)], task=task, teachers=[teacher], ledger=ledger, config=config, on_votes=votes.append
        )
    assert result.outcomes == {"labeled": held + 50}
    assert sum(count - 1 for count in teacher.asked.values()) <= 32


def test_interrupt_in_a_callback_counts_too(teacher: Any, make_rows: Rows, task: Task, tmp_path: Path) -> None:
    def on_votes(votes: pl.DataFrame) -> None:
        raise KeyboardInterrupt

    with Ledger(tmp_path / "l.sqlite") as ledger, pytest.raises(KeyboardInterrupt):
        config = LabelingConfig()
        ask_teachers([make_rows(9000)], task=task, teachers=[teacher], ledger=ledger, config=config, on_votes=on_votes)


def test_full_ledger_stops_the_run(
    teacher: Any, make_rows: Rows, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(path: Path) -> Any:
        connection = connect(path)
        connection.execute("PRAGMA max_page_count = 20")
        return connection

    monkeypatch.setattr("distill.labeling.ledger.ledger.connect", small)
    votes: list[pl.DataFrame] = []
    with Ledger(tmp_path / "l.sqlite") as ledger:
        config = LabelingConfig(concurrency=16)
        with pytest.raises(errors.LedgerWriteError, match="make room"):
            ask_teachers(
                [make_rows(9000)], task=task, teachers=[teacher], ledger=ledger, config=config, on_votes=votes.append
            )
        held = len(ledger)
    assert teacher.closed == 1
    assert sum(teacher.asked.values()) <= held + 2 * 16  # sent and not yet durable
    labeled = pl.concat(votes).filter(pl.col("outcome") == "labeled")
    assert labeled.height <= held  # nothing was used that is not durable
    assert set(pl.concat(votes)["outcome"]) == {"labeled"}


def test_slots_are_free_before_answers_are_durable_within_a_bound(
    teacher: Any, label: Label, make_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, at_risk, durable = Ledger._commit, [], [0]

    def slow(self: Ledger, connection: Any, batch: list[Any], sources: Any) -> Any:
        time.sleep(0.003)
        result = commit(self, connection, batch, sources)
        at_risk.append(sum(teacher.asked.values()) - durable[0])
        durable[0] += len(batch)
        return result

    monkeypatch.setattr(Ledger, "_commit", slow)
    votes, _ = label(make_rows(300), teacher, concurrency=8)
    assert votes.height == durable[0] == 300
    assert 8 < max(at_risk) <= 16


def test_what_was_read_when_it_was_bought_is_not_read_again(teacher: Any, label: Label, make_rows: Rows) -> None:
    ask, read, reads = teacher.ask, teacher.read, []

    async def ask_and_read(request: Any) -> Any:
        reply = await ask(request)
        reply.completion = read(reply)
        return reply

    def counted(reply: Any) -> Any:
        reads.append(reply)
        return read(reply)

    teacher.ask, teacher.read = ask_and_read, counted
    votes, _ = label(make_rows(50), teacher)
    assert not reads
    again, _ = label(make_rows(50), teacher)
    assert len(reads) == 50  # the ledger keeps what came over the wire, not what was made of it
    assert again.drop("from_ledger").equals(votes.drop("from_ledger"))


def test_requests_that_share_a_query_follow_each_other(teacher: Any, label: Label, make_rows: Rows) -> None:
    order: list[str] = []
    ask = teacher.ask

    async def noted(request: Any) -> Any:
        order.append(request.body.decode().split("query: ")[1][:2])
        return await ask(request)

    teacher.ask = noted
    rows = make_rows(300).with_columns(query=pl.Series([f"q{n % 3}" for n in range(300)]))
    label(rows, teacher, concurrency=1)
    assert order == ["q0"] * 100 + ["q1"] * 100 + ["q2"] * 100


def test_votes_are_laid_out_as_they_are() -> None:
    lists = [None, [], ["E1"], ["E1", "S2"], ["E1"], None]
    probs = [[0.5, 0.5], None, [1.0, 0.0], [0.5, 0.5], [], None]
    votes = [
        Vote("r", "t", "f", "labeled", clauses=clauses, probs=stated, latency_s=n if n else None)
        for n, (clauses, stated) in enumerate(zip(lists, probs, strict=True))
    ]
    table = votes_frame(iter(votes))
    assert dict(table.schema) == VOTE_SCHEMA == dict(votes_frame([]).schema)
    assert table["clauses"].to_list() == lists
    assert table["probs"].to_list() == probs
    assert table["latency_s"].to_list() == [None, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert table.height == 6
