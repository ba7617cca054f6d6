"""Labels a file of rows with a student, a batch at a time."""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import polars as pl

from distill.eval.people.annotation_files import spreadsheet_safe
from distill.labeling.errors import UsageError
from distill.labeling.rows.data_config import DataConfig
from distill.labeling.rows.problems import ProblemLog
from distill.labeling.rows.stream import stream_rows
from distill.labeling.task import Task
from distill.predicted_parts import part_cells, part_line
from distill.students.student import load_student

_FORMATS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True)
class Predicted:
    """How a prediction run went.

    Attributes:
        rows: Rows predicted.
        unusable: Rows that could not be, each listed in ``problems``.
        problems: The list; None where every row could be used.
        seconds: Wall time, reading and writing included.
    """

    rows: int
    unusable: int
    problems: Path | None
    seconds: float

    def sentence(self) -> str:
        """One line for a person."""
        said = f"{self.rows:,} rows in {self.seconds:.1f} s, {self.rows / max(self.seconds, 1e-9):,.0f} pairs/s"
        if self.unusable:
            said += f"; {self.unusable:,} rows could not be used, listed in {self.problems}"
        return said


def predict_file(
    student: Path,
    rows: Path,
    *,
    out: Path | None = None,
    id_columns: Sequence[str] = (),
    columns: Sequence[str] = (),
    traces: bool = False,
) -> Predicted:
    """Predicts each row of a file, in order. Memory does not grow with the file.

    Args:
        student: The student's folder.
        rows: csv, tsv, jsonl or parquet, a folder or a glob of them, with the student's input columns.
        out: parquet (as ``predictions/<student>.parquet`` of a run), csv (a column a label; an apostrophe
            before every text that a spreadsheet would run) or jsonl; JSON lines on standard output where none is
            given. It appears whole or not at all.
        id_columns: Columns that name a row; a hash of its inputs where none is given.
        columns: ``input=column`` each, where the file has other names.
        traces: Have the student write its reasoning, into a column ``trace``.

    Raises:
        UsageError: ``out`` or ``columns`` is of the wrong form.
        StudentError: There is no student in the folder, or one that writes no traces and is asked to.
        DataError: The rows cannot be read, or lack a column.
    """
    if out is not None and out.suffix not in _FORMATS:
        raise UsageError(f"{out}: writes {', '.join(_FORMATS)}; give one of these endings")
    loaded = load_student(student)
    config = DataConfig(
        rows=str(rows),
        id=list(id_columns) or None,
        split={"test": 1.0},
        columns=dict(renamed(pair) for pair in columns),
        max_bad_fraction=1.0,
    )
    began, count = time.perf_counter(), 0
    with ProblemLog(_problems_path(rows, out)) as log, _writer(out, loaded.task) as write:
        for batch in stream_rows(config, task=loaded.task, log=log):
            write(loaded.predict(batch, traces=traces))
            count += len(batch)
    return Predicted(
        rows=count,
        unusable=log.unusable,
        problems=log.path if log.problems else None,
        seconds=time.perf_counter() - began,
    )


def _problems_path(rows: Path, out: Path | None) -> Path:
    beside = out or Path(f"{rows.stem or 'rows'}.jsonl")
    return beside.with_name(f"{beside.stem}_problems.jsonl")


def renamed(pair: str) -> tuple[str, str]:
    """Reads ``input=column``.

    Raises:
        UsageError: It is of another form.
    """
    ours, equals, theirs = pair.partition("=")
    if not (ours and equals and theirs):
        raise UsageError(f"--column {pair}: write it as input=column, such as title=product_title")
    return ours.strip(), theirs.strip()


@contextmanager
def _writer(out: Path | None, task: Task) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Takes tables of predictions one after the other, and leaves ``out`` whole or untouched."""
    if out is None:
        yield lambda table: _write_lines(table, task, sys.stdout)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}-") as scratch:
        draft = Path(scratch) / f"whole{out.suffix}"
        if out.suffix == ".parquet":
            numbers = itertools.count()
            yield lambda table: table.write_parquet(Path(scratch) / f"{next(numbers):09d}.parquet")
            pl.scan_parquet(Path(scratch) / "*.parquet").sink_parquet(draft, maintain_order=True)
        else:
            with draft.open("w", encoding="utf-8", newline="") as stream:
                if out.suffix == ".jsonl":
                    yield lambda table: _write_lines(table, task, stream)
                else:
                    yield lambda table: _write_csv(table, task, stream)
        os.replace(draft, out)


def _write_lines(table: pl.DataFrame, task: Task, stream: IO[str]) -> None:
    labels = task.labels
    for row in table.iter_rows(named=True):
        if not task.closed:
            stream.write(json.dumps(part_line(row, task), ensure_ascii=False) + "\n")
            continue
        row["probs"] = {label: round(value, 6) for label, value in zip(labels, row["probs"], strict=True)}
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_csv(table: pl.DataFrame, task: Task, stream: IO[str]) -> None:
    if not task.closed:
        stream.write(spreadsheet_safe(part_cells(table)).write_csv(include_header=stream.tell() == 0))
        return
    labels = task.labels
    columns = [pl.col("probs").list.get(place).round(6).alias(f"p_{label}") for place, label in enumerate(labels)]
    extra = [name for name in ("abstained", "trace") if name in table.columns]
    clauses = [pl.col("clauses").list.join(" ")] if "clauses" in table.columns else []
    told = table.select("row_id", "label", "confidence", *columns, *extra, *clauses)
    text = spreadsheet_safe(told).write_csv(include_header=stream.tell() == 0)
    stream.write(text)
