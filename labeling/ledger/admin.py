"""Upkeep of a ledger: what it holds, copies of it, and clearing it out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from distill.labeling.errors import DataError, LedgerDamagedError, LedgerWriteError
from distill.labeling.ledger.codec import UnreadableBodyError, unpack
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.ledger.pointers import Pointer, count_pointers, drop_dangling, has_pointers, pointers_to
from distill.labeling.teacher import Part, Reply

_ROWS_PER_STEP = 1000
_KEY_BYTES = 16


class SourceStats(NamedTuple):
    """What one source has sold.

    Attributes:
        source: Endpoint, model and teacher.
        replies: How many replies of it are held.
        cost_usd: What they cost, as far as prices were known.
        unpriced: How many of them have no known price.
        oldest: When the first was bought.
        newest: When the last was bought.
    """

    source: Source
    replies: int
    cost_usd: float
    unpriced: int
    oldest: datetime
    newest: datetime


class LedgerStats(NamedTuple):
    """What a ledger holds.

    Attributes:
        path: The file.
        replies: How many replies are held.
        parts: How many rows those of them answer that are about several.
        cost_usd: What they cost, as far as prices were known.
        size_bytes: Size on disk, with what SQLite has not yet merged into the main file.
        bytes_per_reply: ``size_bytes`` shared out over the replies; None where there are none.
        sources: Per source, the one with most replies first.
    """

    path: Path
    replies: int
    parts: int
    cost_usd: float
    size_bytes: int
    bytes_per_reply: float | None
    sources: list[SourceStats]


class ExportCounts(NamedTuple):
    """How an export went: lines ``written``, and replies left out because they are ``unreadable``."""

    written: int
    unreadable: int


class ImportCounts(NamedTuple):
    """How an import went: replies ``added``, and those that were ``already`` held."""

    added: int
    already: int


class PruneCounts(NamedTuple):
    """How a clearing out went: replies ``removed`` and ``kept``, and the bytes by which the file shrank."""

    removed: int
    kept: int
    freed_bytes: int


def ledger_stats(ledger: Ledger) -> LedgerStats:
    """Counts what a ledger holds, in all and per source."""
    query = """
        SELECT endpoint, model, teacher, count(*), coalesce(sum(cost_usd), 0), sum(cost_usd IS NULL),
               min(created_s), max(created_s)
        FROM replies JOIN lanes ON lanes.id = replies.lane GROUP BY lanes.id ORDER BY count(*) DESC, lanes.id
    """
    with ledger.reading() as connection:
        rows = connection.execute(query).fetchall()
        parts = count_pointers(connection) if has_pointers(connection) else 0
    sources = [SourceStats(Source(*row[:3]), row[3], row[4], row[5], _moment(row[6]), _moment(row[7])) for row in rows]
    replies = sum(stats.replies for stats in sources)
    size = _size_bytes(ledger.path)
    cost_usd = sum(stats.cost_usd for stats in sources)
    return LedgerStats(ledger.path, replies, parts, cost_usd, size, size / replies if replies else None, sources)


def count_replies(ledger: Ledger, source: Source) -> int:
    """How many replies of one source are held. Reads the whole table."""
    query = (
        "SELECT count(*) FROM replies WHERE lane = (SELECT id FROM lanes WHERE (endpoint, model, teacher) = (?, ?, ?))"
    )
    with ledger.reading() as connection:
        return int(connection.execute(query, source).fetchone()[0])


def recent_replies(ledger: Ledger, source: Source, *, most: int) -> list[Reply]:
    """The last replies of one source, the newest first; those that cannot be unpacked are left out.

    Those about several rows have a part, which says how many.
    """
    query = """
        SELECT latency_ms, cost_usd, codec, body, key FROM replies
        WHERE lane = (SELECT id FROM lanes WHERE (endpoint, model, teacher) = (?, ?, ?)) ORDER BY id DESC LIMIT ?
    """
    with ledger.reading() as connection:
        rows = connection.execute(query, (*source, most)).fetchall()
        pointers = pointers_to(connection, [row[4] for row in rows]) if has_pointers(connection) else []
    parts = {one.pack: Part(0, one.of, one.pack) for one in pointers if one.of > 1}
    found = []
    for latency_ms, cost_usd, codec, body, key in rows:
        with suppress(UnreadableBodyError):
            found.append(Reply(unpack(codec, body), latency_ms / 1000, cost_usd, part=parts.get(key)))
    return found


def export_ledger(ledger: Ledger, path: Path) -> ExportCounts:
    """Writes every reply to a JSONL file, in the order of arrival.

    A line holds ``key`` (hex), ``endpoint``, ``model``, ``teacher``, ``created_at`` (ISO 8601), ``latency_s``,
    ``cost_usd`` and ``body``; and ``parts`` where it answers several rows: for each row, its key, its place and the
    number of rows. A damaged ledger gives what can still be read of it.

    Raises:
        LedgerDamagedError: Not even the number of its rows can be read.
        LedgerWriteError: The file cannot be written.
    """
    written = unreadable = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for record in _records(ledger):
                if record is None:
                    unreadable += 1
                    continue
                # Lone surrogates in a body survive as \u escapes.
                file.write(json.dumps(record, ensure_ascii=True) + "\n")
                written += 1
    except OSError as error:
        raise LedgerWriteError(f"{path}: the export cannot be written ({error}); name another file") from error
    return ExportCounts(written, unreadable)


def import_ledger(ledger: Ledger, path: Path) -> ImportCounts:
    """Reads a JSONL file that :func:`export_ledger` wrote. Replies that are held already stay as they are.

    Raises:
        DataError: The file is missing, or a line is not a reply; the lines before it are kept.
        LedgerWriteError: The ledger cannot be written.
    """
    ledger.flush()
    before = len(ledger)
    lines = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    _import_line(ledger, line, f"{path}:{number}")
                    lines += 1
                if number % _ROWS_PER_STEP == 0:
                    ledger.flush()  # keeps memory flat
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as an exported ledger ({error}); check the path") from error
    ledger.flush()
    added = len(ledger) - before
    return ImportCounts(added, lines - added)


def prune_ledger(ledger: Ledger, *, older_than_days: float, teacher: str | None = None) -> PruneCounts:
    """Removes replies and gives the space back. What is removed is bought again when it is needed again.

    Args:
        ledger: The ledger.
        older_than_days: Only replies bought before this many days ago; 0 is all.
        teacher: Only replies of the teacher with this name; None is any.

    Raises:
        LedgerWriteError: The ledger cannot be written, or another process holds it.
    """
    before = _size_bytes(ledger.path)
    ledger.flush()
    where = "created_s <= ?"
    parameters: list[object] = [int(time.time() - older_than_days * 86_400)]
    if teacher is not None:
        where += " AND lane IN (SELECT id FROM lanes WHERE teacher = ?)"
        parameters.append(teacher)
    with ledger.writing() as connection:
        connection.execute("BEGIN IMMEDIATE")
        removed = connection.execute(f"DELETE FROM replies WHERE {where}", parameters).rowcount
        if has_pointers(connection):
            drop_dangling(connection)
        connection.execute("COMMIT")
        # Lanes stay: writers, also of other processes, have noted their numbers.
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return PruneCounts(removed, len(ledger), max(0, before - _size_bytes(ledger.path)))


def _records(ledger: Ledger) -> Iterator[dict[str, Any] | None]:
    """Yields every reply in order; None for each that cannot be read."""
    with ledger.reading() as connection:
        last = connection.execute("SELECT max(id) FROM replies").fetchone()[0] or 0
    for start in range(1, last + 1, _ROWS_PER_STEP):
        stop = min(start + _ROWS_PER_STEP, last + 1)
        try:
            yield from _range(ledger, start, stop)
        except LedgerDamagedError:
            # A damaged page takes the whole step down; row by row, only its own rows are lost.
            for row_id in range(start, stop):
                try:
                    yield from _range(ledger, row_id, row_id + 1)
                except LedgerDamagedError:
                    yield None


def _range(ledger: Ledger, start: int, stop: int) -> list[dict[str, Any] | None]:
    query = """
        SELECT key, endpoint, model, teacher, created_s, latency_ms, cost_usd, codec, body
        FROM replies LEFT JOIN lanes ON lanes.id = replies.lane
        WHERE replies.id >= ? AND replies.id < ? ORDER BY replies.id
    """
    with ledger.reading() as connection:
        rows = connection.execute(query, (start, stop)).fetchall()
    parts = _parts(ledger, [row[0] for row in rows])
    return [_record(row, parts.get(row[0])) for row in rows]


def _parts(ledger: Ledger, keys: Sequence[bytes]) -> dict[bytes, list[list[Any]]]:
    """The pointers to replies, as exported; where they are damaged, the replies are still worth having."""
    parts: dict[bytes, list[list[Any]]] = {}
    with suppress(LedgerDamagedError), ledger.reading() as connection:
        pointers = pointers_to(connection, keys) if has_pointers(connection) else []
        for one in sorted(pointers, key=lambda one: one.place):
            parts.setdefault(one.pack, []).append([one.key.hex(), one.place, one.of])
    return parts


def _record(row: tuple[Any, ...], parts: list[list[Any]] | None) -> dict[str, Any] | None:
    key, endpoint, model, teacher, created_s, latency_ms, cost_usd, codec, stored = row
    try:
        body = unpack(codec, stored)
    except UnreadableBodyError:
        return None
    return {
        "key": key.hex(),
        "endpoint": endpoint or "",
        "model": model or "",
        "teacher": teacher or "",
        "created_at": _moment(created_s).isoformat(),
        "latency_s": latency_ms / 1000,
        "cost_usd": cost_usd,
        "body": body,
        **({"parts": parts} if parts else {}),
    }


def _import_line(ledger: Ledger, line: str, where: str) -> None:
    try:
        record = json.loads(line)
        key = _key(record["key"])
        cost_usd = record["cost_usd"]
        reply = Reply(str(record["body"]), float(record["latency_s"]), None if cost_usd is None else float(cost_usd))
        source = Source(str(record["endpoint"]), str(record["model"]), str(record["teacher"]))
        created = datetime.fromisoformat(record["created_at"])
        pointers = [Pointer(_key(row), int(place), int(of)) for row, place, of in record.get("parts", ())]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: not a line of an exported ledger ({type(error).__name__}: {error}); lines before it were read"
        ) from None
    ledger.put(key, reply, source=source, created_s=int(created.timestamp()), pointers=pointers)


def _key(text: str) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != _KEY_BYTES:
        raise ValueError(f"key of {len(key)} bytes")
    return key


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _size_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists())
