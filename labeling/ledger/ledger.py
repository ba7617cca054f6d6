"""The ledger: every reply ever bought, durable before anyone sees it.

One SQLite file in WAL mode with full sync, which any number of processes may read and write at once. Each process
has one writer thread, which commits whatever has gathered since its last commit, so that many replies share one
fsync. Replies are keyed by :attr:`~distill.labeling.teacher.Request.key`; the first writer of a key wins.

Rows that were asked about together are found by keys of their own, see :mod:`distill.labeling.ledger.pointers`.

Failures are never written: what is here is what a provider answered, unparsed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from distill.labeling.errors import LedgerDamagedError, LedgerError, LedgerWriteError
from distill.labeling.ledger.codec import UnreadableBodyError, pack, unpack
from distill.labeling.ledger.file import WAY_OUT, connect, explained, prepare
from distill.labeling.ledger.pointers import (
    Found,
    Pointer,
    find_pointers,
    has_pointers,
    insert_pointers,
    select_by_keys,
)
from distill.labeling.teacher import Part, Reply

_INSERT = "INSERT INTO replies (key, lane, created_s, latency_ms, cost_usd, codec, body) VALUES"
_COLUMN_COUNT = 7
_SELECT = "SELECT key, latency_ms, cost_usd, codec, body FROM replies WHERE key IN ("
_COMMIT_WITHIN_S = 0.05
# How long a commit waits for company where nobody is held up by it: a commit costs the same for one reply as for many.
_GATHER_S = 0.02


class Source(NamedTuple):
    """Where a reply was bought. The ledger writes each source once."""

    endpoint: str
    model: str
    teacher: str


_Row = tuple[bytes, int, float | None, int, bytes]
_Waiter = Future[Reply] | asyncio.Future[Reply]


class _Held(NamedTuple):
    """What a look-up found: replies, the pointers that led to some of them, and the keys that only those led to."""

    rows: list[_Row]
    pointers: list[Found]
    followed: set[bytes]


class _Entry(NamedTuple):
    key: bytes
    source: Source
    created_s: int
    latency_ms: int
    cost_usd: float | None
    codec: int
    body: bytes
    waiter: _Waiter
    reply: Reply
    pointers: Sequence[Pointer] = ()


def _entry(key: bytes, reply: Reply, source: Source, waiter: _Waiter, created_s: int | None = None) -> _Entry:
    codec, body = pack(reply.body)
    created_s = int(time.time()) if created_s is None else created_s
    return _Entry(key, source, created_s, round(reply.latency_s * 1000), reply.cost_usd, codec, body, waiter, reply)


class Ledger:
    """An open ledger.

    Safe to use from any thread. Close it, or use it as a context manager: what is still to be written is written then.

    Args:
        path: The SQLite file. It and its folders are made where they are missing.

    Raises:
        LedgerVersionError: A newer distill wrote it.
        LedgerDamagedError: It is not a ledger, or is damaged.
        LedgerWriteError: It cannot be made or opened for writing.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._reader = connect(self.path)
            try:
                prepare(self._reader, self.path)
            except BaseException:
                self._reader.close()
                raise
        self._read_lock = threading.Lock()
        self._read_pool = ThreadPoolExecutor(1, thread_name_prefix="ledger-reader")
        self._queue: deque[_Entry] = deque()
        self._wake = threading.Condition()
        self._idle = True
        self._hurried = False
        self._closed = False
        self._broken: LedgerError | None = None
        self._writer: threading.Thread | None = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of replies held."""
        with self.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM replies").fetchone()[0])

    # Reading

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Reply]:
        """Looks replies up.

        Args:
            keys: 16-byte keys of requests, or of rows; any number.

        Returns:
            The replies held, by key; one found by a row's key says which part of it is meant. Keys that are not held
            are left out.

        Raises:
            LedgerDamagedError: A page or a stored body is damaged.
        """
        return self._replies(self._look_up(keys))

    async def fetch(self, keys: Sequence[bytes]) -> dict[bytes, Reply]:
        """As :meth:`get_many`, in a thread: a slow disk does not hold up the event loop."""
        if not keys:
            return {}
        return self._replies(await asyncio.get_running_loop().run_in_executor(self._read_pool, self._look_up, keys))

    def _look_up(self, keys: Iterable[bytes]) -> _Held:
        keys = list(keys)
        pointers: list[Found] = []
        followed: set[bytes] = set()
        with self.reading() as connection:
            rows = select_by_keys(connection, _SELECT, keys)
            if len(rows) < len(keys) and has_pointers(connection):
                held = {row[0] for row in rows}
                pointers = find_pointers(connection, (key for key in keys if key not in held))
                followed = {one.pack for one in pointers} - held
                rows += select_by_keys(connection, _SELECT, followed)
        return _Held(rows, pointers, followed)

    def _replies(self, held: _Held) -> dict[bytes, Reply]:
        replies = {
            key: Reply(self._unpack(key, codec, body), latency_ms / 1000, cost_usd)
            for key, latency_ms, cost_usd, codec, body in held.rows
        }
        for key, pack_key, place, of in held.pointers:
            if (whole := replies.get(pack_key)) is not None:
                replies[key] = Reply(whole.body, whole.latency_s, whole.cost_usd, part=Part(place, of, pack_key))
        for pack_key in held.followed:  # nobody asked for these themselves
            replies.pop(pack_key, None)
        return replies

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lends the connection for reading, with SQLite's errors turned into ours."""
        with self._read_lock, explained(self.path):
            yield self._reader

    # Writing

    def put(
        self,
        key: bytes,
        reply: Reply,
        *,
        source: Source,
        created_s: int | None = None,
        pointers: Sequence[Pointer] = (),
    ) -> Future[Reply]:
        """Hands a reply to the writer thread.

        Args:
            key: The request's 16-byte key.
            reply: What came back.
            source: Where it was bought.
            created_s: When it was bought, in seconds since 1970; None is now.
            pointers: The rows that it answers, where they were asked about together; written in the same commit.

        Returns:
            A future that is done when the reply is durable. Its value is the reply that the ledger holds: the one
            given, or the one that another process wrote first. It raises LedgerWriteError where nothing could be
            written.
        """
        waiter: Future[Reply] = Future()
        self._enqueue(_entry(key, reply, source, waiter, created_s)._replace(pointers=pointers))
        self.hurry()
        return waiter

    def put_soon(
        self, key: bytes, reply: Reply, *, source: Source, pointers: Sequence[Pointer] = ()
    ) -> asyncio.Future[Reply]:
        """As :meth:`put`, for the running event loop, which is woken once for a whole commit.

        The commit may wait some hundredths of a second for more; :meth:`hurry` ends that.
        """
        waiter = asyncio.get_running_loop().create_future()
        entry = _entry(key, reply, source, waiter)
        self._enqueue(entry._replace(pointers=pointers) if pointers else entry)
        return waiter

    def hurry(self) -> None:
        """Has what was handed over committed now: somebody waits for it and has nothing else to do."""
        if not self._hurried and not self._idle:
            with self._wake:
                self._hurried = True
                self._wake.notify_all()

    def flush(self) -> None:
        """Waits until everything handed over so far is durable.

        Raises:
            LedgerWriteError: Something could not be written.
        """
        self.hurry()
        with self._wake:
            self._wake.wait_for(lambda: self._idle and not self._queue)
            if self._broken:
                raise self._broken

    def close(self) -> None:
        """Writes what is left and lets go of the file. Errors of the last writes stand in their futures."""
        with self._wake:
            if self._closed:
                return
            self._closed = True
            self._wake.notify_all()
        if self._writer:
            self._writer.join()
        self._read_pool.shutdown()
        self._reader.close()

    def _enqueue(self, entry: _Entry) -> None:
        with self._wake:
            if self._closed:
                raise LedgerWriteError(f"ledger {self.path}: it is closed; open it again to write")
            if self._broken:
                raise self._broken
            self._queue.append(entry)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="ledger-writer", daemon=True)
                self._writer.start()
            if self._idle:
                self._idle = False
                self._wake.notify_all()

    def _write(self) -> None:
        connection: sqlite3.Connection | None = None
        sources: dict[Source, int] = {}
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._queue) or self._closed)
                if not self._queue:
                    break
                self._wake.wait_for(lambda: self._hurried or self._closed, timeout=_GATHER_S)
                self._hurried = False
            batch: list[_Entry] = []
            outcome: dict[bytes, Reply] | LedgerError
            try:
                with explained(self.path):
                    connection = connection or connect(self.path)
                    outcome = self._commit(connection, batch, sources)
            except Exception as error:
                # Nothing may be used that is not durable, and the next write would fare no better: all are told, also
                # of what nobody foresaw, or they would wait for ever.
                known = error if isinstance(error, LedgerError) else LedgerWriteError(f"ledger {self.path}: {error!r}")
                with self._wake:
                    self._broken = outcome = known
                    batch += self._queue
                    self._queue.clear()
            _settle(batch, outcome)
            with self._wake:
                if not self._queue:
                    self._idle = True
                    self._wake.notify_all()
        if connection:
            connection.close()

    def _commit(
        self, connection: sqlite3.Connection, batch: list[_Entry], sources: dict[Source, int]
    ) -> dict[bytes, Reply]:
        """Writes what is queued, until the queue is empty or its oldest entry has waited long enough.

        Returns:
            The replies that another writer had written first, by key.
        """
        winners: dict[bytes, Reply] = {}
        until = time.monotonic() + _COMMIT_WITHIN_S
        known = dict(sources)
        connection.execute("BEGIN IMMEDIATE")
        try:
            while self._queue and time.monotonic() < until:
                entries = [self._queue.popleft() for _ in range(_chunk_size(len(self._queue)))]
                batch += entries
                for source in {entry.source for entry in entries} - known.keys():
                    known[source] = _source_id(connection, source)
                written = _insert(connection, entries, known)
                if pointers := [
                    Found(one.key, entry.key, one.place, one.of) for entry in entries for one in entry.pointers
                ]:
                    insert_pointers(connection, pointers)
                if written < len(entries):
                    winners |= self._held(connection, entries)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        sources.update(known)
        return winners

    def _held(self, connection: sqlite3.Connection, entries: list[_Entry]) -> dict[bytes, Reply]:
        return self._replies(_Held(select_by_keys(connection, _SELECT, [entry.key for entry in entries]), [], set()))

    def _unpack(self, key: bytes, codec: int, body: bytes) -> str:
        try:
            return unpack(codec, body)
        except UnreadableBodyError as error:
            raise LedgerDamagedError(f"ledger {self.path}: reply {key.hex()}: {error}; {WAY_OUT}") from None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lends a connection of its own for a piece of upkeep, with SQLite's errors turned into ours."""
        with explained(self.path):
            connection = connect(self.path)
            try:
                yield connection
            finally:
                connection.close()


def _chunk_size(queued: int) -> int:
    """Largest power of two up to 256 that is queued: a handful of statements serve all sizes and stay prepared."""
    return min(256, 1 << (queued.bit_length() - 1))


def _insert(connection: sqlite3.Connection, entries: list[_Entry], sources: dict[Source, int]) -> int:
    """Inserts in one statement: SQLite gives the interpreter's lock back once, not once a row.

    Getting the lock again takes up to 5 ms whenever the event loop is busy, so that a row at a time the writer would
    be the bottleneck.
    """
    values = ",".join(["(" + ",".join("?" * _COLUMN_COUNT) + ")"] * len(entries))
    parameters: list[object] = []
    for entry in entries:
        parameters += (entry.key, sources[entry.source], *entry[2:7])
    return connection.execute(f"{_INSERT} {values} ON CONFLICT (key) DO NOTHING", parameters).rowcount


def _source_id(connection: sqlite3.Connection, source: Source) -> int:
    connection.execute("INSERT OR IGNORE INTO lanes (endpoint, model, teacher) VALUES (?, ?, ?)", source)
    query = "SELECT id FROM lanes WHERE endpoint = ? AND model = ? AND teacher = ?"
    return int(connection.execute(query, source).fetchone()[0])


def _settle(batch: list[_Entry], outcome: dict[bytes, Reply] | LedgerError) -> None:
    """Tells the waiters, each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Entry]] = {}
    for entry in batch:
        if isinstance(entry.waiter, asyncio.Future):
            by_loop.setdefault(entry.waiter.get_loop(), []).append(entry)
        else:
            _resolve([entry], outcome)
    for loop, entries in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, entries, outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more, and the replies are safe
            continue


def _resolve(entries: list[_Entry], outcome: dict[bytes, Reply] | LedgerError) -> None:
    for entry in entries:
        if entry.waiter.done():  # the waiter was cancelled
            continue
        if isinstance(outcome, LedgerError):
            entry.waiter.set_exception(outcome)
        else:
            entry.waiter.set_result(outcome.get(entry.key, entry.reply))
