from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.labeling.engine.batch_journal import BatchJournal, Intent
from distill.labeling.engine.budget import Use
from distill.labeling.errors import LedgerError
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.teacher import Reply, Request

SOURCE = Source("http://fake", "m", "judge")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def requests(*numbers: int) -> list[Request]:
    return [Request("http://fake", b"body %d" % number) for number in numbers]


def intend(journal: BatchJournal, *numbers: int) -> Intent:
    return journal.intend(requests(*numbers), source=SOURCE, asides=[Use(1.0, 10.0, 0.5)] * len(numbers))


def test_a_jobs_life(ledger: Ledger) -> None:
    journal = BatchJournal(ledger)
    assert journal.open_jobs() == [] and journal.open_job("t") is None and journal.in_open_jobs([b"k"]) == {}
    job = intend(journal, 1, 2, 3).job
    assert job is not None and job.job_id is None
    assert (job.requests, job.aside) == (3, Use(3.0, 30.0, 1.5))
    assert journal.open_jobs("http://fake", "m") == [job] == journal.open_jobs()
    assert journal.open_jobs("http://fake", "other") == []
    assert journal.keys_of(job.tag) == {request.key for request in requests(1, 2, 3)}
    assert journal.submitted(job.tag, "job-1")
    assert journal.open_job(job.tag) == job._replace(job_id="job-1")
    assert not journal.close(job.tag, "dropped", unsubmitted=True)
    assert journal.close(job.tag, "ended")
    assert not journal.close(job.tag, "ended")
    assert not journal.submitted(job.tag, "job-1")
    assert journal.open_jobs() == [] and journal.keys_of(job.tag) == frozenset()


def test_a_key_is_in_one_open_job(ledger: Ledger) -> None:
    journal = BatchJournal(ledger)
    one = intend(journal, 1, 2).job
    assert one is not None
    two = BatchJournal(ledger).intend(requests(2, 3), source=SOURCE, asides=[Use(1.0), Use(1.0)])
    (second, third) = requests(2, 3)
    assert (two.taken, two.keys) == ({second.key: one.tag}, {third.key})
    nothing = intend(journal, 1, 3)
    assert nothing.job is None and len(nothing.taken) == 2
    assert len(journal.open_jobs()) == 2
    journal.close(one.tag, "ended")
    assert intend(journal, 1, 2).taken == {}


def test_what_the_ledger_holds_goes_into_no_job(ledger: Ledger) -> None:
    (held,) = requests(1)
    ledger.put(held.key, Reply("answer"), source=SOURCE).result(10)
    intent = intend(BatchJournal(ledger), 1, 2)
    assert intent.held == {held.key} and held.key not in intent.keys and len(intent.keys) == 1


def test_more_keys_than_a_statement_takes(ledger: Ledger) -> None:
    journal = BatchJournal(ledger)
    intend(journal, *range(2000))
    intent = intend(journal, *range(1500, 2500))
    assert (len(intent.taken), len(intent.keys)) == (500, 500)


def test_a_failed_transaction_leaves_nothing(ledger: Ledger) -> None:
    journal = BatchJournal(ledger)
    one, broken = requests(1, 2)
    broken.key = None  # type: ignore[assignment]  # its line is written last, and cannot be
    with pytest.raises(LedgerError):
        journal.intend([one, broken], source=SOURCE, asides=[Use(1.0), Use(1.0)])
    assert journal.open_jobs() == [] and journal.in_open_jobs([one.key]) == {}
