"""Text files as batches of rows: encodings, separators, broken quotes, lines that are not JSON."""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, NamedTuple

import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.rows.clean import plain_text, text_series
from distill.labeling.rows.encoding import find_encoding, guess_note, open_text, show_marked, undecodable
from distill.labeling.rows.source import (
    BATCH_CHARS,
    BATCH_ROWS,
    STRUCTURED,
    Batches,
    RawBatch,
    Unreadable,
    Wanted,
    require_columns,
)

_SEPARATORS = (",", "\t", ";", "|")
_JSON_CHUNK_CHARS = 1_048_576
_MAX_JSON_VALUE_CHARS = 64 * 1024 * 1024
# A quote that is never closed would swallow the rest of the file; a record beyond this is taken for a broken line.
_MAX_RECORD_LINES = 500
_MAX_RECORD_CHARS = 4_000_000
_SHOWN_CHARS = 500
_BETWEEN_ITEMS = re.compile(r"[\s,]*")


class _RecordTooLongError(Exception):
    """A quoted cell does not end within the bounds of a record."""


def read_csv(path: Path, wanted: Wanted, *, encoding: str | None, separator: str | None) -> Batches:
    """Reads a delimited file with a header line.

    A record that does not have as many cells as the header is reported and costs only its own first line: reading
    goes on at the next line, so a quote that is never closed does not take its neighbours with it.

    Args:
        path: The file.
        wanted: The columns to take.
        encoding: Its encoding; None to find out.
        separator: What separates cells; None to find out from the header.

    Raises:
        DataError: A wanted column is missing, or named twice.
    """
    _allow_long_cells()
    used = encoding or find_encoding(path)
    note = "" if encoding else guess_note(used)
    with open_text(path, encoding=used) as stream:
        lines = _Lines(stream)
        header, separator = _read_header(lines, wanted, separator)
        if not header:
            return
        require_columns(str(path), header, wanted)
        for name in wanted:
            if header.count(name) > 1:
                raise DataError(f"{path}:1: the header names {name!r} {header.count(name)} times; give each its own")
        records = _records(lines, separator, width=len(header))
        at = [header.index(name) for name in wanted]
        while items := _take_records(records):
            yield replace(_csv_batch(path, items, dict(zip(wanted, at, strict=True))), note=note)


class _Record(NamedTuple):
    number: int
    cells: list[str]
    kind: str | None = None
    detail: str = ""
    quotes_as_text: bool = False


class _Lines:
    """Physical lines, numbered from 1, of which the last record's can be given back."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._returned: deque[str] = deque()
        self._chars = 0
        self.record: list[str] = []
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.record) >= _MAX_RECORD_LINES or self._chars > _MAX_RECORD_CHARS:
            raise _RecordTooLongError
        line = self._returned.popleft() if self._returned else next(self._stream)
        self.record.append(line)
        self._chars += len(line)
        self.number += 1
        return line

    def start_record(self) -> int:
        """Forgets the last record; returns the number of the line that comes next."""
        self.record = []
        self._chars = 0
        return self.number + 1

    def give_back(self, *, keep: int) -> None:
        """Puts back all lines of the record but the first ``keep``."""
        again = self.record[keep:]
        self._returned.extendleft(reversed(again))
        self.number -= len(again)
        del self.record[keep:]


def _allow_long_cells() -> None:
    # Python's limit for one cell is 131,072 characters and belongs to the process; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), 2 * _MAX_RECORD_CHARS))


def _read_header(lines: _Lines, wanted: Wanted, separator: str | None) -> tuple[list[str], str]:
    """Reads the first line that is not blank; the separator is the one that shows most of the wanted columns."""
    for line in lines:
        if not line.strip():
            lines.start_record()
            continue
        options = [separator] if separator else _SEPARATORS
        cells = [next(csv.reader([line], delimiter=option)) for option in options]
        headers = [([name.strip() for name in names], option) for names, option in zip(cells, options, strict=True)]
        return max(headers, key=lambda item: (len(set(item[0]) & set(wanted)), len(item[0])))
    return [], separator or ","


def _records(lines: _Lines, separator: str, *, width: int) -> Iterator[_Record]:
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        number = lines.start_record()
        error = ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _RecordTooLongError:
            error, cells = f"a quote is not closed within {_MAX_RECORD_LINES} lines", []
        except csv.Error as found:
            error, cells = str(found), []
        if not error and len(cells) <= 1 and not any(cell.strip() for cell in cells):
            continue
        while len(cells) > width and not cells[-1]:
            cells.pop()
        if error or len(cells) != width:
            reader = csv.reader(lines, delimiter=separator, strict=True)
            yield _repair(lines, separator, width, _Record(number, cells, detail=error))
        else:
            yield _Record(number, cells)


def _repair(lines: _Lines, separator: str, width: int, found: _Record) -> _Record:
    """Takes quotes as ordinary characters where that explains the line (``5" pipe``), else gives the line up.

    Of a record over several lines only tabs make that safe: a comma also stands in running text.
    """
    first = lines.record[0]
    if '"' in first and (len(lines.record) == 1 or separator == "\t"):
        literal = next(csv.reader([first], delimiter=separator, quoting=csv.QUOTE_NONE))
        if len(literal) == width:
            lines.give_back(keep=1)
            return _Record(found.number, literal, quotes_as_text=True)
    lines.give_back(keep=1)
    if found.detail:
        return _Record(found.number, [first], "bad_quotes", found.detail)
    return _Record(found.number, [first], "ragged_row", f"{len(found.cells)} cells, the header has {width}")


def _take_records(records: Iterator[_Record]) -> list[_Record]:
    taken: list[_Record] = []
    chars = 0
    for record in records:
        taken.append(record)
        chars += sum(map(len, record.cells))
        if len(taken) >= BATCH_ROWS or chars >= BATCH_CHARS:
            break
    return taken


def _csv_batch(path: Path, records: Sequence[_Record], at: dict[str, int]) -> RawBatch:
    broken = undecodable(["".join(record.cells) for record in records])
    good: list[_Record] = []
    unreadable: list[Unreadable] = []
    for index, record in enumerate(records):
        if index in broken:
            unreadable.append(_undecodable_row(record.number, " | ".join(record.cells)))
        elif record.kind:
            unreadable.append(Unreadable(record.number, record.kind, record.detail, _shown(record.cells[0])))
        else:
            good.append(record)
    columns = {name: text_series([record.cells[index] or None for record in good]) for name, index in at.items()}
    literal = sum(record.quotes_as_text for record in good)
    return RawBatch(
        source=str(path),
        unit="line",
        numbers=[record.number for record in good],
        columns=pl.DataFrame(columns),
        unreadable=unreadable,
        cleaned={"quotes_as_text": literal} if literal else {},
    )


def read_json(path: Path, wanted: Wanted, *, encoding: str | None) -> Batches:
    """Reads JSON lines, or one array of objects.

    A line that is not an object is reported; a key that a line lacks is null there.

    Raises:
        DataError: No line has a wanted key, or an array is broken so that its items cannot be told apart.
    """
    seen: set[str] = set()
    read = 0
    used = encoding or find_encoding(path)
    note = "" if encoding else guess_note(used)
    with open_text(path, encoding=used) as stream:
        is_array = stream.read(4096).lstrip().startswith("[")
    with open_text(path, encoding=used) as stream:
        items = _array_items(path, stream) if is_array else _line_items(stream)
        for taken in _take_texts(items):
            batch, keys = _json_batch(path, taken, wanted, unit="item" if is_array else "line")
            seen |= keys
            read += len(batch.numbers)
            yield replace(batch, note=note)
    if read:
        require_columns(str(path), seen, wanted)


def _line_items(stream: IO[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(stream, start=1):
        if not line.isspace():
            yield number, line


def _array_items(path: Path, stream: IO[str]) -> Iterator[tuple[int, str]]:
    """Cuts ``[{…}, {…}]`` into the text of its items without holding the whole."""
    decoder = json.JSONDecoder()
    buffer = stream.read(_JSON_CHUNK_CHARS).lstrip().removeprefix("[")
    number = position = 0
    while True:
        position = _BETWEEN_ITEMS.match(buffer, position).end()  # type: ignore[union-attr]
        if buffer.startswith("]", position):
            return
        try:
            _, end = decoder.raw_decode(buffer, position)
        except json.JSONDecodeError:
            more = stream.read(_JSON_CHUNK_CHARS)
            if not more or len(buffer) - position > _MAX_JSON_VALUE_CHARS:
                raise DataError(
                    f"{path}: not valid JSON after item {number} of the array, near "
                    f"{_shown(buffer[position : position + 80])!r}; write one object a line, to lose only bad ones"
                ) from None
            buffer, position = buffer[position:] + more, 0
            continue
        number += 1
        yield number, buffer[position:end]
        position = end


def _take_texts(items: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    taken: list[tuple[int, str]] = []
    chars = 0
    for item in items:
        taken.append(item)
        chars += len(item[1])
        if len(taken) >= BATCH_ROWS or chars >= BATCH_CHARS:
            yield taken
            taken, chars = [], 0
    if taken:
        yield taken


def _json_batch(
    path: Path, taken: Sequence[tuple[int, str]], wanted: Wanted, *, unit: str
) -> tuple[RawBatch, set[str]]:
    broken = undecodable([text for _, text in taken])
    numbers: list[int] = []
    values: list[dict[str, object]] = []
    unreadable: list[Unreadable] = []
    for index, (number, text) in enumerate(taken):
        if index in broken:
            unreadable.append(_undecodable_row(number, text))
            continue
        value, kind, detail = _parse(text)
        if kind:
            unreadable.append(Unreadable(number, kind, detail, _shown(text)))
        else:
            numbers.append(number)
            values.append(value)
    keys = set().union(*values) if values else set()
    columns = {
        name: text_series([_cell(value.get(name), wanted[name]) for value in values]) for name in wanted if name in keys
    }
    frame = pl.DataFrame(columns) if columns else pl.DataFrame({"": [None] * len(numbers)})
    return RawBatch(str(path), unit, numbers, frame, unreadable), keys


def _cell(value: object, wanted_by: str) -> str | None:
    if isinstance(value, list | dict) and STRUCTURED in wanted_by:
        return json.dumps(value, ensure_ascii=False)
    return plain_text(value)


def _parse(text: str) -> tuple[dict[str, object], str, str]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return {}, "bad_json", f"{error.msg} at character {error.pos + 1}"
    except RecursionError:
        return {}, "bad_json", "nested too deeply"
    except ValueError as error:
        return {}, "bad_json", str(error)
    if not isinstance(value, dict):
        return {}, "not_an_object", f"a JSON {type(value).__name__}, not an object with named values"
    return value, "", ""


def _undecodable_row(number: int, text: str) -> Unreadable:
    shown, count = show_marked(text)
    detail = f"{count} byte(s) that are no text in this encoding; set data.encoding if it is another"
    return Unreadable(number, "undecodable", detail, _shown(shown))


def _shown(text: str) -> str:
    text = text.rstrip("\r\n")
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
