"""Replies that were recorded before, served as a teacher."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.rows.row_id import join_columns
from distill.labeling.teacher import Completion, Prompt, Reply, Request
from distill.teachers.config import RecordedColumns, RecordedTeacherConfig

_ENDPOINT = "recorded"


class RecordedTeacher:
    """Answers from a file that holds one reply a row, through the same engine, ledger and parser as any teacher.

    A request is the row's id and a hash of its reply, and nothing of the prompt: editing one reply asks for that row
    again, editing the guideline for none. A row without a reply, and any repeat beyond the first sample, is not
    asked (``compile`` gives None).

    Args:
        name: Its name in the recipe.
        config: Its section of the recipe.

    Raises:
        DataError: The file is missing or cannot be read, lacks a column, or names a row twice.
    """

    def __init__(self, name: str, config: RecordedTeacherConfig) -> None:
        self.name = name
        self.family = config.family
        self.answer = config.answer
        self.max_concurrency: int | None = None
        where = f"teacher {name} ({config.path})"
        columns = config.columns
        wanted = [*config.id, *(_column_names(columns) if columns else [config.reply])]
        table = _read(config.path, where)
        for column in wanted:
            if column not in table:
                raise DataError(
                    f"{where}: column {column!r} is missing, the file has {', '.join(table.columns) or 'none'}; "
                    f"set teachers.{name}.id, reply or columns"
                )
        table = table.select(list(dict.fromkeys(wanted)))
        self._positions = _index(table, config.id, where)
        if columns is None:
            self._reply_at = _raw_replies(table[config.reply])
        else:
            self._reply_at = _ParsedReplies(table, columns, config.label_map)

    def __len__(self) -> int:
        """Rows that the file holds."""
        return len(self._positions)

    def compile(self, prompt: Prompt, *, sample: int) -> Request | None:
        """Names the reply of the prompt's row; None where there is none, or for a repeat."""
        reply = None if sample else self._reply_of(prompt.row_id)
        if reply is None:
            return None
        digest = hashlib.blake2b(reply.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        body = f"{digest} {prompt.row_id}".encode("utf-8", "surrogatepass")
        return Request(_ENDPOINT, body, sample, prompt.row_id)

    def read(self, reply: Reply) -> Completion:
        """The body is what the model wrote."""
        return Completion(text=reply.body)

    async def ask(self, request: Request) -> Reply:
        """Looks the reply up. It costs nothing."""
        reply = self._reply_of(request.row_id)
        assert reply is not None, "compile gives no request for a row without a reply"
        return Reply(body=reply, latency_s=0.0, cost_usd=0.0)

    async def open(self) -> None:
        """Nothing to get ready."""

    async def close(self) -> None:
        """Nothing to let go of."""

    def _reply_of(self, row_id: str) -> str | None:
        position = self._positions.get(row_id)
        return None if position is None else self._reply_at(position)


def _column_names(columns: RecordedColumns) -> list[str]:
    probs = columns.probs
    names = [columns.label, columns.confidence, columns.trace, columns.clauses]
    names += list(probs.values()) if isinstance(probs, dict) else [probs]
    return [name for name in names if name is not None]


def _read(path: Path, where: str) -> pl.DataFrame:
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".parquet": pl.read_parquet,
        # Text as it stands: an id 007 stays 007.
        ".csv": lambda path: pl.read_csv(path, infer_schema=False),
        ".tsv": lambda path: pl.read_csv(path, infer_schema=False, separator="\t"),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{where}: got a {path.suffix or 'nameless'} file; give one of {', '.join(readers)}")
    if not path.is_file():
        raise DataError(f"{where}: no such file; correct the path, which is taken from the current folder")
    try:
        table = reader(path)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{where}: cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())[:300]}") from None
    if table.is_empty():
        raise DataError(f"{where}: holds no reply; record some, or take the teacher out")
    return table


def _read_jsonl(path: Path) -> pl.DataFrame:
    """Reads line by line: polars would guess one type for a column that holds numbers and text, and name no line."""
    columns: dict[str, list[Any]] = {}
    count = 0
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise DataError(f"line {number} is not JSON, got {line.strip()[:60]!r}; correct the line") from None
            if not isinstance(record, dict):
                raise DataError(f"line {number} is not a JSON object, got {line.strip()[:60]!r}; correct the line")
            for name, value in record.items():
                if name not in columns:
                    columns[name] = [None] * count
                columns[name].append(value)
            count += 1
            if len(record) < len(columns):
                for values in columns.values():
                    values.extend([None] * (count - len(values)))
    return pl.DataFrame([pl.Series(name, values, dtype=pl.Object) for name, values in columns.items()])


def _index(table: pl.DataFrame, columns: tuple[str, ...], where: str) -> dict[str, int]:
    parts = [_as_text(table[name], name, where) for name in columns]
    ids = join_columns([pl.Series(part, dtype=pl.String) for part in parts]).to_list()
    positions = dict(zip(ids, range(len(ids)), strict=True))
    if len(positions) < len(ids):
        # The dict keeps the last position of an id, so an earlier one is the first of a pair.
        first, repeated = next((place, row_id) for place, row_id in enumerate(ids) if positions[row_id] != place)
        raise DataError(
            f"{where}: the id {repeated!r} stands in records {first + 1} and {positions[repeated] + 1}, and "
            f"{len(ids) - len(positions)} records in all repeat one; keep one reply a row"
        )
    return positions


def _as_text(column: pl.Series, name: str, where: str) -> list[str]:
    values = column.to_list()
    if None in values:
        raise DataError(f"{where}: record {values.index(None) + 1} has no {name!r}; give each reply the id of its row")
    return values if column.dtype == pl.String else [str(value) for value in values]


def _raw_replies(column: pl.Series) -> Callable[[int], str | None]:
    """Gives the text of a reply by position; one that was recorded as an object is written as JSON again."""

    def reply_at(position: int) -> str | None:
        reply = column[position]
        return reply if reply is None or isinstance(reply, str) else _as_json(reply)

    return reply_at


class _ParsedReplies:
    """Writes an answer's parts as the JSON that a model would have returned, a row at a time to save memory."""

    def __init__(self, table: pl.DataFrame, columns: RecordedColumns, label_map: dict[str, str]) -> None:
        self._label_map = label_map
        self._label = table[columns.label]
        rest = {"trace": columns.trace, "clauses": columns.clauses, "confidence": columns.confidence}
        self._rest = {field: table[column] for field, column in rest.items() if column is not None}
        self._probs: pl.Series | dict[str, pl.Series] | None = None
        if isinstance(columns.probs, str):
            self._probs = table[columns.probs]
        elif columns.probs is not None:
            self._probs = {label: table[column] for label, column in columns.probs.items()}

    def __call__(self, position: int) -> str | None:
        label = _plain(self._label[position])
        if label is None:
            return None
        text = str(label)
        answer: dict[str, Any] = {"label": self._label_map.get(text, text)}
        for field, column in self._rest.items():
            if (value := _plain(column[position])) is not None:
                answer[field] = value
        if (probs := self._distribution(position)) is not None:
            answer["probs"] = probs
        return _as_json(answer)

    def _distribution(self, position: int) -> Any:
        if self._probs is None:
            return None
        if isinstance(self._probs, dict):
            values = {label: _plain(column[position]) for label, column in self._probs.items()}
            return None if None in values.values() else values
        probs = _plain(self._probs[position])
        if isinstance(probs, str):
            try:
                probs = json.loads(probs)
            except ValueError:
                return probs
        return {self._label_map.get(name, name): p for name, p in probs.items()} if isinstance(probs, dict) else probs


def _plain(value: Any) -> Any:
    """A cell as JSON can hold it; None where it is missing. 3.0 is 3: pandas stores a column of grades so."""
    if isinstance(value, pl.Series):
        return value.to_list()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    return value


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
