"""The journal of provider batch jobs, in the ledger's file: what is submitted is written down before it is.

A job's intent, with the key of every request, is durable before anything goes to the provider, and the provider's id of
the job after. So whatever a kill comes between, the next run knows which requests may be at the provider, finds the
job again by its tag, and submits nothing twice. A key is in at most one open job, of whatever process.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from distill.labeling.engine.budget import Use
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.teacher import Request

# Tables of their own, which older versions do not look at: no new schema version is needed for them. The keys of a job
# go when it is over; its line stays.
_TABLES = (
    """
    CREATE TABLE IF NOT EXISTS batch_jobs (
        tag TEXT NOT NULL PRIMARY KEY, endpoint TEXT NOT NULL, model TEXT NOT NULL, teacher TEXT NOT NULL,
        created_s REAL NOT NULL, touched_s REAL NOT NULL, requests INTEGER NOT NULL, bytes INTEGER NOT NULL,
        tokens REAL NOT NULL, usd REAL NOT NULL, job_id TEXT, state TEXT NOT NULL, closed_s REAL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS batch_keys (key BLOB NOT NULL PRIMARY KEY, tag TEXT NOT NULL, bytes INTEGER NOT NULL)
    WITHOUT ROWID
    """,
    "CREATE INDEX IF NOT EXISTS batch_keys_by_tag ON batch_keys (tag)",
)
_COLUMNS = "tag, endpoint, model, teacher, created_s, touched_s, requests, tokens, usd, job_id"
_OPEN = "state IN ('intent', 'submitted')"
_KEYS_PER_QUERY = 512


class OpenJob(NamedTuple):
    """A job that is at the provider, or may be.

    Attributes:
        tag: Our name of it, which the provider keeps with it.
        source: Who answers, and which teacher asked.
        created_s: When its intent was written, in seconds since 1970.
        touched_s: When a process was last seen submitting it, likewise.
        requests: How many it holds.
        aside: What was set aside for it.
        job_id: The provider's name of it; None while it is not known whether it was submitted.
    """

    tag: str
    source: Source
    created_s: float
    touched_s: float
    requests: int
    aside: Use
    job_id: str | None


class Intent(NamedTuple):
    """What became of requests that were to be submitted.

    Attributes:
        job: The job that is now to be submitted; None where nothing is left for one.
        keys: The keys in it.
        taken: Keys that are in another open job, with its tag.
        held: Keys whose reply has come into the ledger meanwhile.
    """

    job: OpenJob | None
    keys: frozenset[bytes]
    taken: dict[bytes, str]
    held: frozenset[bytes]


class BatchJournal:
    """Reads and writes the journal. Every call touches the disk; safe from any thread.

    Args:
        ledger: In whose file it is.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def open_jobs(self, endpoint: str | None = None, model: str | None = None) -> list[OpenJob]:
        """Jobs that are not over, the oldest first: of one server and model, or all.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        query = (
            f"SELECT {_COLUMNS} FROM batch_jobs WHERE {_OPEN} AND endpoint = ifnull(?, endpoint) "
            "AND model = ifnull(?, model) ORDER BY created_s, tag"
        )
        with self._reading() as connection:
            return [] if connection is None else [_job(row) for row in connection.execute(query, (endpoint, model))]

    def open_job(self, tag: str) -> OpenJob | None:
        """The job of this tag; None where it is over.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        query = f"SELECT {_COLUMNS} FROM batch_jobs WHERE {_OPEN} AND tag = ?"
        with self._reading() as connection:
            row = None if connection is None else connection.execute(query, (tag,)).fetchone()
        return None if row is None else _job(row)

    def keys_of(self, tag: str) -> frozenset[bytes]:
        """Keys of the requests of an open job.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        with self._reading() as connection:
            if connection is None:
                return frozenset()
            found = connection.execute("SELECT key FROM batch_keys WHERE tag = ?", (tag,)).fetchall()
        return frozenset(bytes(key) for (key,) in found)

    def in_open_jobs(self, keys: Collection[bytes]) -> dict[bytes, str]:
        """Which of these keys are in an open job, with its tag.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        with self._reading() as connection:
            return {} if connection is None else _taken(connection, keys)

    def intend(self, requests: Sequence[Request], *, source: Source, asides: Sequence[Use]) -> Intent:
        """Writes down that requests are about to be submitted as one job, those that need it.

        Args:
            requests: The requests.
            source: Who answers, and which teacher asks.
            asides: What each of them will probably use.

        Raises:
            LedgerError: The ledger cannot be written.
        """
        sized = {one.key: (len(one.start) + len(one.rest), aside) for one, aside in zip(requests, asides, strict=True)}
        with self._writing() as connection:
            taken = _taken(connection, sized)
            held = _held(connection, sized.keys() - taken.keys())
            keys = frozenset(sized.keys() - taken.keys() - held)
            if not keys:
                return Intent(None, keys, taken, held)
            aside = Use(float(len(keys)), *(sum(sized[key][1][place] for key in keys) for place in (1, 2)))
            job = OpenJob(f"distill-{uuid.uuid4().hex}", source, time.time(), time.time(), len(keys), aside, None)
            size_bytes = sum(sized[key][0] for key in keys)
            connection.execute(
                f"INSERT INTO batch_jobs ({_COLUMNS}, bytes, state) VALUES (?,?,?,?,?,?,?,?,?,?,?,'intent')",
                (job.tag, *source, job.created_s, job.touched_s, len(keys), aside.tokens, aside.usd, None, size_bytes),
            )
            rows = [(key, job.tag, sized[key][0]) for key in keys]
            connection.executemany("INSERT INTO batch_keys (key, tag, bytes) VALUES (?, ?, ?)", rows)
        return Intent(job, keys, taken, held)

    def touch(self, tag: str) -> None:
        """Notes that a process is still submitting the job, so that no other takes it for abandoned.

        Raises:
            LedgerError: The ledger cannot be written.
        """
        with self._writing() as connection:
            connection.execute("UPDATE batch_jobs SET touched_s = ? WHERE tag = ?", (time.time(), tag))

    def submitted(self, tag: str, job_id: str) -> bool:
        """Writes down the provider's id of a job.

        Returns:
            Whether the job is still open; False where another process has given it up.

        Raises:
            LedgerError: The ledger cannot be written.
        """
        query = f"UPDATE batch_jobs SET job_id = ?, state = 'submitted' WHERE tag = ? AND {_OPEN}"
        with self._writing() as connection:
            return connection.execute(query, (job_id, tag)).rowcount > 0

    def close(self, tag: str, state: str, *, unsubmitted: bool = False) -> bool:
        """Notes that a job is over, and lets go of its keys. Its results are durable by then.

        Args:
            tag: The job's.
            state: How it ended, for the record.
            unsubmitted: Only where no id has been written down for it meanwhile.

        Returns:
            Whether it was open until now; False where another process was first.

        Raises:
            LedgerError: The ledger cannot be written.
        """
        which = "state = 'intent'" if unsubmitted else _OPEN
        query = f"UPDATE batch_jobs SET state = ?, closed_s = ? WHERE tag = ? AND {which}"
        with self._writing() as connection:
            closed = connection.execute(query, (state, time.time(), tag)).rowcount > 0
            if closed:
                connection.execute("DELETE FROM batch_keys WHERE tag = ?", (tag,))
        return closed

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Lends the connection for reading; None where no job was ever submitted."""
        with self._ledger.reading() as connection:
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'batch_keys_by_tag'").fetchone()
            yield connection if made else None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Lends a connection within a transaction that no other process's comes between."""
        with self._ledger.writing() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for statement in _TABLES:
                    connection.execute(statement)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def _job(row: tuple[object, ...]) -> OpenJob:
    tag, endpoint, model, teacher, created_s, touched_s, requests, tokens, usd, job_id = row
    source = Source(str(endpoint), str(model), str(teacher))
    count, of_job = int(str(requests)), None if job_id is None else str(job_id)
    aside = Use(float(count), float(str(tokens)), float(str(usd)))
    return OpenJob(str(tag), source, float(str(created_s)), float(str(touched_s)), count, aside, of_job)


def _taken(connection: sqlite3.Connection, keys: Iterable[bytes]) -> dict[bytes, str]:
    query = "SELECT key, tag FROM batch_keys WHERE key IN "
    return {bytes(key): tag for key, tag in _looked_up(connection, query, keys)}


def _held(connection: sqlite3.Connection, keys: Iterable[bytes]) -> frozenset[bytes]:
    query = "SELECT key, lane FROM replies WHERE key IN "
    return frozenset(bytes(key) for key, _ in _looked_up(connection, query, keys))


def _looked_up(connection: sqlite3.Connection, query: str, keys: Iterable[bytes]) -> list[tuple[bytes, str]]:
    found: list[tuple[bytes, str]] = []
    remaining = iter(keys)
    while chunk := list(islice(remaining, _KEYS_PER_QUERY)):
        found += connection.execute(query + "(" + ",".join("?" * len(chunk)) + ")", chunk).fetchall()
    return found
