"""Pointers: which reply of the ledger answers a row that was asked about together with others.

A request about several rows is one reply, kept once under the request's own key. Each of its rows has a key of its own
(:meth:`~distill.labeling.prompts.packs.Packing.row_key`), and a pointer leads from it to the reply and the row's place
in it. A pointer is written in the commit of the reply that it leads to. The first one of a row wins, as the first reply
of a key does: of two runs at the same time that bought a row in different packs, each keeps its answer, and later ones
are served the first. A pointer that leads to nothing counts as not held.

The table is made with the first pointer, and the file's schema version raised with it: a version of distill that knows
no pointers would leave them out of its exports, and every row of a pack would be paid for again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

VERSION_WITH_POINTERS = 2

# By row, as replies are found; by pack, for exports. The rows of a pack stand side by side in the second index.
_TABLE = """
CREATE TABLE IF NOT EXISTS parts (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, pack BLOB NOT NULL, place INTEGER NOT NULL, size INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS parts_by_pack ON parts (pack)
"""
_INSERT = "INSERT INTO parts (key, pack, place, size) VALUES"
_SELECT = "SELECT key, pack, place, size FROM parts WHERE key IN ("
_SELECT_OF_PACKS = "SELECT key, pack, place, size FROM parts WHERE pack IN ("
_KEYS_PER_QUERY = 512
_KEYS_STEP = 64


class Pointer(NamedTuple):
    """From a row to its part of a reply.

    Attributes:
        key: The row's key, 16 bytes.
        place: Its place in the request, from 0.
        of: Rows that the request asked about.
    """

    key: bytes
    place: int
    of: int


class Found(NamedTuple):
    """A pointer as it is kept: with the key of the ``pack`` that it leads to."""

    key: bytes
    pack: bytes
    place: int
    of: int


def has_pointers(connection: sqlite3.Connection) -> bool:
    """Whether the file has the table at all."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0]) >= VERSION_WITH_POINTERS


def insert_pointers(connection: sqlite3.Connection, pointers: Sequence[Found]) -> None:
    """Writes pointers within the transaction under way; rows that have one keep it."""
    if not has_pointers(connection):
        for statement in _TABLE.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION_WITH_POINTERS}")
    start = 0
    while start < len(pointers):
        # Powers of two: a handful of statements serve all sizes and stay prepared.
        chunk = pointers[start : start + min(256, 1 << ((len(pointers) - start).bit_length() - 1))]
        values = ",".join(["(?, ?, ?, ?)"] * len(chunk))
        parameters = [value for pointer in chunk for value in pointer]
        connection.execute(f"{_INSERT} {values} ON CONFLICT (key) DO NOTHING", parameters)
        start += len(chunk)


def find_pointers(connection: sqlite3.Connection, keys: Iterable[bytes]) -> list[Found]:
    """The pointers of rows, by their keys."""
    return [Found(*row) for row in select_by_keys(connection, _SELECT, keys)]


def pointers_to(connection: sqlite3.Connection, packs: Iterable[bytes]) -> list[Found]:
    """The pointers that lead to these replies."""
    return [Found(*row) for row in select_by_keys(connection, _SELECT_OF_PACKS, packs)]


def count_pointers(connection: sqlite3.Connection) -> int:
    """How many rows are answered by a reply about several."""
    return int(connection.execute("SELECT count(*) FROM parts WHERE size > 1").fetchone()[0])


def drop_dangling(connection: sqlite3.Connection) -> None:
    """Removes pointers that lead to nothing."""
    connection.execute("DELETE FROM parts WHERE pack NOT IN (SELECT key FROM replies)")


def select_by_keys(connection: sqlite3.Connection, query: str, keys: Iterable[bytes]) -> list[tuple[Any, ...]]:
    """Runs a query that ends in ``IN (`` for any number of keys.

    Args:
        connection: Where it runs.
        query: SQL up to and with the opening bracket.
        keys: Any number; put in a few hundred at a time, since SQLite bounds the parameters of a statement.

    Returns:
        The lines of all, in no order.
    """
    rows: list[tuple[Any, ...]] = []
    remaining = iter(keys)
    while chunk := list(islice(remaining, _KEYS_PER_QUERY)):
        # A statement is prepared once for each number of keys: the last one is repeated up to a few numbers.
        chunk += chunk[-1:] * (-len(chunk) % _KEYS_STEP)
        rows += connection.execute(query + ",".join("?" * len(chunk)) + ")", chunk).fetchall()
    return rows
