"""Kill the process at every point of a batch job's life: nothing is submitted twice, and nothing paid for is lost."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

# A child process: asks about every row by batch and writes the votes, in order. Dies at the point named. Its clock runs
# faster, so that nobody waits for looks and grace.
_CHILD = """
import asyncio, os, signal, sys, time
import polars as pl
from distill.labeling.engine.batch_journal import BatchJournal
from distill.labeling.engine.engine import LabelingRun
from distill.labeling.engine.jobs import Timing
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.task import Task
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai import OpenAITeacher
from distill.teachers.openai_batches import OpenAIBatches

base_url, ledger, rows, out, point, speed, most, wait = sys.argv[1:]

def dying(here, there, kind, name):
    plain = getattr(kind, name)
    def method(self, *values, **settings):
        if point == here:
            os.kill(os.getpid(), signal.SIGKILL)
        result = plain(self, *values, **settings)
        if point == there:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(kind, name, method)

dying("before the intent", "after the intent", BatchJournal, "intend")
dying("before the id", "after the id", BatchJournal, "submitted")
dying("before results are durable", "never", Ledger, "put_soon")
dying("before it is closed", "after it is closed", BatchJournal, "close")
call = OpenAIBatches._call
async def dying_call(self, method, path, **options):
    if point == "after the upload" and (method, path) == ("POST", "/batches"):
        os.kill(os.getpid(), signal.SIGKILL)
    return await call(self, method, path, **options)
OpenAIBatches._call = dying_call

batch = {"most_requests": int(most), "wait": wait == "wait"}
config = OpenAITeacherConfig(base_url=base_url, model="tiny", family="f", batch=batch, probe=False)
task = Task(labels=("exact", "substitute", "complement", "irrelevant"), inputs=("query", "title"))
pace = float(speed)
timing = Timing(clock=lambda: time.monotonic() * pace, sleep=lambda seconds: asyncio.sleep(seconds / pace))
votes = []
with Ledger(ledger) as opened:
    run = LabelingRun(
        task=task, teachers=[OpenAITeacher("judge", config)], ledger=opened, config=LabelingConfig(), timing=timing
    )
    result = run.run([pl.read_parquet(rows)], on_votes=votes.append)
pl.concat(votes).sort("row_id").write_parquet(out)
print(result.requests_sent, result.ledger_hits)
"""
_ROWS = 60
_POINTS = (
    "before the intent",
    "after the intent",
    "after the upload",
    "before the id",
    "after the id",
    "before results are durable",
    "before it is closed",
    "after it is closed",
)


class Child:
    """Starts child processes on one ledger and one server."""

    def __init__(self, server: Any, folder: Path, rows: pl.DataFrame) -> None:
        self.server = server
        self.folder = folder
        self.rows = rows.height
        # A grace of 60 s is then 0.3 s. Two at once need more: it must outlast how long one is kept from the processor.
        self.speed = 200
        self.most = 25
        self.wait = "wait"
        rows.write_parquet(folder / "rows.parquet")

    def start(self, point: str = "", *, out: str = "votes.parquet") -> Any:
        places = [self.folder / "ledger.sqlite", self.folder / "rows.parquet", self.folder / out]
        settings = [point, self.speed, self.most, self.wait]
        command = [sys.executable, "-c", _CHILD, self.server.base_url, *places, *settings]
        return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, process: Any) -> tuple[int, int]:
        """Waits for a child to end well; requests sent and ledger hits."""
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        sent, hits = out.split()
        return int(sent), int(hits)

    def die(self, point: str) -> None:
        process = self.start(point)
        process.communicate(timeout=100)
        assert process.returncode == -signal.SIGKILL, point

    def votes(self, out: str = "votes.parquet") -> pl.DataFrame:
        return pl.read_parquet(self.folder / out)

    def assert_whole(self, out: str = "votes.parquet") -> None:
        """Every row has its label, each was submitted once and never asked live, and the journal is settled."""
        votes = self.votes(out)
        assert (votes.height, votes["outcome"].unique().to_list()) == (self.rows, ["labeled"])
        assert self.server.paid_twice() == 0
        assert len(self.server.submitted) == self.rows and not self.server.live
        assert self.open_jobs() == 0

    def open_jobs(self) -> int:
        query = "SELECT count(*) FROM batch_jobs WHERE state IN ('intent', 'submitted')"
        return int(sqlite3.connect(self.folder / "ledger.sqlite").execute(query).fetchone()[0])


@pytest.fixture
def child(batch_server: Any, tmp_path: Path, make_rows: Callable[[int], pl.DataFrame]) -> Child:
    return Child(batch_server, tmp_path, make_rows(_ROWS))


@pytest.mark.parametrize("point", _POINTS)
def test_kill_at(point: str, child: Child) -> None:
    child.die(point)
    child.finish(child.start())
    child.assert_whole()


def test_kill_before_the_id_with_a_list_that_lags(child: Child) -> None:
    child.server.lag_s, child.speed = 0.4, 30
    child.die("before the id")
    child.finish(child.start())
    child.assert_whole()


def test_kill_again_and_again_at_the_same_point(child: Child) -> None:
    child.most = _ROWS
    for _ in range(3):
        child.die("before results are durable")
    child.finish(child.start())
    child.assert_whole()
    assert len(child.server.jobs) == 1


def test_kill_while_an_expired_job_is_taken(child: Child) -> None:
    child.server.ends = ["expired:0.4", "completed", "completed"]
    child.die("before it is closed")
    child.finish(child.start())
    votes = child.votes()
    assert votes["outcome"].unique().to_list() == ["labeled"]
    # Those that the job did not come to go into another job, and only those: 15 of the first 25.
    assert child.server.paid_twice() == 15


@pytest.mark.slow
def test_twenty_kills_at_random(child: Child) -> None:
    dice = random.Random(7)
    child.server.run_s, child.most = 0.3, 10
    for _ in range(20):
        process = child.start()
        calls = len(child.server.calls)
        at = calls + dice.randrange(1, 25)
        while len(child.server.calls) < at and process.poll() is None:
            time.sleep(0.001)
        time.sleep(dice.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    child.finish(child.start())
    child.assert_whole()


def test_two_processes_submit_each_row_once(child: Child) -> None:
    child.speed, child.server.run_s = 20, 1.0
    one, two = child.start(out="one.parquet"), child.start(out="two.parquet")
    child.finish(one)
    child.finish(two)
    child.assert_whole("one.parquet")
    child.assert_whole("two.parquet")
    same = ["row_id", "outcome", "label", "key", "cost_usd"]
    assert child.votes("one.parquet").select(same).equals(child.votes("two.parquet").select(same))


def test_a_process_waits_for_the_jobs_of_one_that_was_killed_while_another_runs(child: Child) -> None:
    child.server.run_s, child.speed = 1.0, 20
    child.die("after the id")
    one, two = child.start(out="one.parquet"), child.start(out="two.parquet")
    child.finish(one)
    child.finish(two)
    child.assert_whole("one.parquet")
    child.assert_whole("two.parquet")


def test_ctrl_c_leaves_jobs_to_be_picked_up(child: Child) -> None:
    child.server.ends = ["never"] * 3
    process = child.start()
    while len(child.server.jobs) < 3 and process.poll() is None:
        time.sleep(0.005)
    began_s = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert err.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert time.monotonic() - began_s < 4
    assert child.server.open_jobs() == child.open_jobs() == 3
    for job in child.server.jobs.values():
        job.end = "completed"
    assert child.finish(child.start()) == (0, 0)
    child.assert_whole()


def test_submit_and_exit_then_pick_up(child: Child) -> None:
    child.server.ends, child.wait = ["never"] * 3, "exit"
    assert child.finish(child.start()) == (_ROWS, 0)
    assert child.votes().select("outcome", "cause").unique().rows() == [("unsent", "in_batch")]
    for job in child.server.jobs.values():
        job.end = "completed"
    assert child.finish(child.start()) == (0, 0)
    child.assert_whole()
