"""Kill the process, fill the disk, run two at once: nothing is lost but what was in flight."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

# A child process: asks the server about every row and writes the votes, in order, when all is done.
_CHILD = """
import resource, sqlite3, sys, time
from pathlib import Path
import polars as pl
from distill.labeling.engine.engine import ask_teachers
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.task import Task
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai import OpenAITeacher

base_url, ledger, rows, out, in_flight, most_bytes, commit_s, together = sys.argv[1:]

class SlowDisk(sqlite3.Connection):
    def execute(self, statement, *parameters):
        if statement == "COMMIT":
            time.sleep(float(commit_s))  # killed here, nothing of the commit is there
        return super().execute(statement, *parameters)

if float(commit_s):
    connect = sqlite3.connect
    sqlite3.connect = lambda *places, **settings: connect(*places, factory=SlowDisk, **settings)
if int(most_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most_bytes), int(most_bytes)))
teacher = OpenAITeacher("judge", OpenAITeacherConfig(base_url=base_url, model="tiny", family="f", probe=False))
task = Task(labels=("exact", "substitute", "complement", "irrelevant"), inputs=("query", "title"))
votes = []
with Ledger(ledger) as opened:
    result = ask_teachers(
        [pl.read_parquet(rows)], task=task, teachers=[teacher], ledger=opened,
        config=LabelingConfig(concurrency=int(in_flight), rows_per_request=int(together)), on_votes=votes.append,
    )
pl.concat(votes).sort("row_id").write_parquet(out)
print(result.requests_sent, result.ledger_hits)
"""
_IN_FLIGHT = 16
# What a kill can lose is what was sent and is not yet durable: at most twice what may be in flight.
_AT_RISK = 2 * _IN_FLIGHT
_ROWS = 240


class Child:
    """Starts child processes on one ledger and one server."""

    def __init__(self, server: Any, folder: Path, rows: pl.DataFrame) -> None:
        self.server = server
        self.folder = folder
        self.commit_s = 0.0
        self.in_flight = _IN_FLIGHT
        self.together = 1
        rows.write_parquet(folder / "rows.parquet")

    def start(self, *, ledger: str = "ledger.sqlite", out: str = "votes.parquet", most_bytes: int = 0) -> Any:
        places = [self.folder / ledger, self.folder / "rows.parquet", self.folder / out]
        command = [sys.executable, "-c", _CHILD, self.server.base_url, *places]
        command += [self.in_flight, most_bytes, self.commit_s, self.together]
        return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, process: Any) -> tuple[int, int]:
        """Waits for a child to end well; requests sent and ledger hits."""
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        sent, hits = out.split()
        return int(sent), int(hits)

    def votes(self, out: str = "votes.parquet") -> pl.DataFrame:
        return pl.read_parquet(self.folder / out)

    def asked(self) -> int:
        return sum(self.server.counts.values())

    def paid_twice(self) -> int:
        return self.asked() - len(self.server.counts)


@pytest.fixture
def child(fault_server: Any, tmp_path: Path, make_rows: Callable[[int], pl.DataFrame]) -> Child:
    fault_server.always("slow:0.02")
    return Child(fault_server, tmp_path, make_rows(_ROWS))


def same_answers(one: pl.DataFrame, two: pl.DataFrame) -> bool:
    when_bought = ("from_ledger", "latency_s")
    return one.drop(when_bought).equals(two.drop(when_bought))


def kill_and_resume(child: Child, kills: int) -> None:
    child.finish(child.start(ledger="undisturbed.sqlite", out="undisturbed.parquet"))
    child.server.counts.clear()
    dice = random.Random(7)
    for kill in range(kills):
        process = child.start()
        # Points spread over the whole run: also before the first answer and around the last.
        at = round((kill + dice.random()) / kills * _ROWS)
        while child.asked() < at and process.poll() is None:
            time.sleep(0.002)
        time.sleep(dice.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert child.paid_twice() <= (kill + 1) * _AT_RISK
    sent, hits = child.finish(child.start())
    assert sent + hits == _ROWS
    assert len(child.server.counts) == _ROWS
    assert child.paid_twice() <= kills * _AT_RISK
    assert (child.votes()["outcome"] == "labeled").all()
    assert same_answers(child.votes(), child.votes("undisturbed.parquet"))


def test_kill_and_resume_is_as_if_undisturbed(child: Child) -> None:
    kill_and_resume(child, kills=3)


def test_kill_with_the_ledger_on_a_slow_disk(child: Child) -> None:
    child.commit_s = 0.1  # five times what an answer takes: most of what is answered is not yet durable
    kill_and_resume(child, kills=3)


@pytest.mark.slow
def test_twenty_kills(child: Child) -> None:
    kill_and_resume(child, kills=20)


@pytest.mark.slow
def test_twenty_kills_with_the_ledger_on_a_slow_disk(child: Child) -> None:
    child.commit_s = 0.1
    kill_and_resume(child, kills=20)


def test_rows_asked_together_survive_kills(child: Child) -> None:
    child.in_flight, child.together = 2, 4
    child.finish(child.start(ledger="undisturbed.sqlite", out="undisturbed.parquet"))
    assert child.asked() == _ROWS / 4
    child.server.requests.clear()
    for at in (5, 20, 40):
        process = child.start()
        while len(child.server.requests) < at and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    sent, hits = child.finish(child.start())
    assert sum(len(child.server.items_of(request)) or 1 for request in child.server.requests[-sent:]) + hits == _ROWS
    # A row of a pack that was paid for is not in another one. At risk are twice the packs in flight, of four rows each.
    asked = Counter(text for request in child.server.requests for text in child.server.items_of(request))
    assert len(asked) == _ROWS and sum(asked.values()) - _ROWS <= 3 * 2 * 2 * 4
    assert (child.votes()["outcome"] == "labeled").all()
    assert child.votes()["label"].equals(child.votes("undisturbed.parquet")["label"])
    assert child.finish(child.start()) == (0, _ROWS)


def test_two_processes_at_once_agree(child: Child) -> None:
    one, two = child.start(out="one.parquet"), child.start(out="two.parquet")
    child.finish(one)
    child.finish(two)
    assert same_answers(child.votes("one.parquet"), child.votes("two.parquet"))
    assert len(child.server.counts) == child.votes("one.parquet").height == _ROWS
    assert child.finish(child.start()) == (0, _ROWS)


def test_full_disk_ends_in_one_clear_error_and_the_next_run_goes_on(child: Child) -> None:
    process = child.start(most_bytes=90_000)  # of each file, the log too: room for some of the 240 answers
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    last = err.strip().splitlines()[-1]
    assert "LedgerWriteError: ledger " in last and "make room on the disk" in last
    asked = child.asked()
    assert _IN_FLIGHT < asked < _ROWS
    sent, hits = child.finish(child.start())
    assert sent + hits == _ROWS
    assert hits >= asked - _AT_RISK
    assert child.paid_twice() <= _AT_RISK
    assert (child.votes()["outcome"] == "labeled").all()


def test_ctrl_c_ends_the_process_quickly(child: Child) -> None:
    child.server.always("slow:5")
    process = child.start()
    while child.asked() < _IN_FLIGHT and process.poll() is None:
        time.sleep(0.005)
    began_s = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began_s < 4  # an answer would take 5 s
    assert err.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert child.asked() == _IN_FLIGHT


def test_answers_that_servers_get_wrong_end_as_they_should(
    fault_server: Any, make_rows: Callable[[int], pl.DataFrame], label: Callable[..., Any]
) -> None:
    """The engine with the real HTTP teacher against a server with many faults; the outcomes add up."""
    from distill.teachers.config import OpenAITeacherConfig
    from distill.teachers.openai import OpenAITeacher

    faults = {
        "item1\n": ("500", "labeled"),
        "item2\n": ("html", "labeled"),
        "item3\n": ("half_json", "labeled"),
        "item4\n": ("drop", "labeled"),
        "item5\n": ("cut", "labeled"),
        "item6\n": ("429:1", "labeled"),
        "item7\n": ("400", "failed"),
        "item8\n": ("prose", "labeled"),
        "item9\n": ("unknown_label", "labeled"),
        "item10\n": ("length", "invalid"),
        "item11\n": ("content_filter", "filtered"),
        "item12\n": ("refusal", "refused"),
        "item13\n": ("abstain", "abstained"),
        "item14\n": ("azure_filter", "filtered"),
    }
    for text, (fault, _) in faults.items():
        fault_server.on(text, fault)
    config = OpenAITeacherConfig(base_url=fault_server.base_url, model="tiny", family="f", probe=False)
    votes, result = label(make_rows(60), OpenAITeacher("judge", config))
    got = dict(votes.select("row_id", "outcome").iter_rows())
    assert {text: got[f"r{text[4:].strip()}"] for text in faults} == {text: end for text, (_, end) in faults.items()}
    assert result.outcomes.total() == votes.height == 60
    # Each of these is retried once: 500 html half_json drop cut 429.
    assert result.teachers["judge"].retries.total() == 6
    assert json.dumps(votes["reason"].to_list()).count("sk-") == 0
