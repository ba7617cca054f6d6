"""The file of a ledger: how it is made, checked and opened, and what SQLite's errors mean for it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.labeling.errors import LedgerDamagedError, LedgerError, LedgerVersionError, LedgerWriteError
from distill.labeling.ledger.pointers import VERSION_WITH_POINTERS

SCHEMA_VERSION = 1
"""Of a new ledger; it is raised when it gets what older versions of distill would lose."""
APPLICATION_ID = 0x64_69_73_74  # "dist"

# Rows stand in the order of arrival and only the 16-byte keys are indexed. A table ordered by its random keys would
# touch a page of its own for every reply written, and leave each page a third empty.
_SCHEMA = """
CREATE TABLE lanes (
    id INTEGER PRIMARY KEY, endpoint TEXT NOT NULL, model TEXT NOT NULL, teacher TEXT NOT NULL,
    UNIQUE (endpoint, model, teacher)
);
CREATE TABLE replies (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, lane INTEGER NOT NULL REFERENCES lanes (id),
    created_s INTEGER NOT NULL, latency_ms INTEGER NOT NULL, cost_usd REAL, codec INTEGER NOT NULL, body BLOB NOT NULL
);
"""
_BUSY_TIMEOUT_S = 60.0
_LOOK_AGAIN_S = 0.02
_CACHE_KIB = 32_768
_CHOOSE_ANOTHER = "check the folder, or name another file by `ledger:` in the recipe or DISTILL_LEDGER"
WAY_OUT = (
    "save what can still be read with `distill ledger export FILE.jsonl`, move the file aside, and read the copy "
    "into a new one with `distill ledger import FILE.jsonl`"
)
"""What to do about a damaged ledger."""


def connect(path: Path) -> sqlite3.Connection:
    """Opens a connection that any thread may use, with full sync."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=32
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")  # the index of a million keys is 30 MB
    connection.execute("PRAGMA wal_autocheckpoint = 4000")  # 16 MB: fewer checkpoints, each of them two more fsyncs
    return connection


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns errors of SQLite, and of opening the file, into ours.

    Args:
        path: Of the ledger, for the message.

    Raises:
        LedgerError: In place of a ``sqlite3.Error`` or ``OSError``: damaged, locked, full or not writable.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(error, path) from error
    except OSError as error:
        raise LedgerWriteError(f"ledger {path}: cannot be opened ({error}); {_CHOOSE_ANOTHER}") from error


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Checks that the file is a ledger that this version can use; makes it one where it is new.

    Args:
        connection: Of the file, in autocommit mode.
        path: Of the file, for messages.

    Raises:
        LedgerDamagedError: It is another program's database.
        LedgerVersionError: A newer distill wrote it.
    """
    version, application = _stamp(connection)
    if SCHEMA_VERSION <= version <= VERSION_WITH_POINTERS and application == APPLICATION_ID:
        return
    if application not in (0, APPLICATION_ID):
        raise LedgerDamagedError(f"ledger {path}: it is the database of another program; {_CHOOSE_ANOTHER}")
    if version > VERSION_WITH_POINTERS:
        raise LedgerVersionError(
            f"ledger {path}: written by a newer distill (schema {version}, this one reads up to "
            f"{VERSION_WITH_POINTERS}); "
            "upgrade distill, or name another file by `ledger:` in the recipe or DISTILL_LEDGER"
        )
    _turn_on_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have made it since.
        if _stamp(connection) == (0, 0):
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise LedgerDamagedError(f"ledger {path}: a database, but not a ledger; {_CHOOSE_ANOTHER}")
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _turn_on_wal(connection: sqlite3.Connection) -> None:
    """Sets WAL mode. SQLite does not wait for another process that does so at the same moment: that is done here."""
    until = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_LOOK_AGAIN_S)


def _stamp(connection: sqlite3.Connection) -> tuple[int, int]:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return version, application


def _explain(error: sqlite3.Error, path: Path) -> LedgerError:
    """Says what an error of SQLite means for the ledger."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        what = "not a database" if code == sqlite3.SQLITE_NOTADB else "damaged"
        return LedgerDamagedError(f"ledger {path}: {what} ({error}); {WAY_OUT}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerWriteError(
            f"ledger {path}: another process held it for {_BUSY_TIMEOUT_S:.0f} s ({error}); end that process "
            "and run again"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return LedgerWriteError(f"ledger {path}: cannot be written ({error}); {_CHOOSE_ANOTHER}")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return LedgerWriteError(
            f"ledger {path}: an answer could not be made durable ({error}); make room on the disk and run the same "
            "command again: everything before is kept"
        )
    return LedgerError(f"ledger {path}: {error} (SQLite code {code})")
