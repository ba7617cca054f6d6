"""Reads rows from anywhere into one table, and lists what cannot be used."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.queries.catalogue_file import with_evidence
from distill.labeling.rows.data_config import SPLITS, DataConfig
from distill.labeling.rows.files import frame_batches, read_source
from distill.labeling.rows.hub import read_dataset
from distill.labeling.rows.index import Resolution, RowIndex
from distill.labeling.rows.plan import RowPlan
from distill.labeling.rows.prepare import Findings, prepare
from distill.labeling.rows.problems import ProblemLog
from distill.labeling.rows.source import Batches
from distill.labeling.task import Task

if TYPE_CHECKING:
    import datasets

_ROW_GROUP_ROWS = 50_000
_LIMIT_READS_ROWS = 20_000
_LIMIT_READS_TIMES = 50
_SHOWN_GROUPS = 3
_LARGEST_GROUPS = 5


@dataclass(frozen=True)
class RowsSummary:
    """What came in, what was kept, and what was wrong.

    ``read`` = ``kept`` + ``unusable`` + ``merged`` + ``beyond_limit``.

    Attributes:
        path: The table written.
        problems_path: JSONL with one line a problem; None where there is none.
        read: Rows found, readable or not.
        kept: Rows in the table.
        unusable: Rows left out because of a problem.
        merged: Rows that repeat an earlier one (same id, same inputs); their weight went to it.
        beyond_limit: Usable rows that ``limit`` left out.
        duplicate_content: Rows kept that say the same as another one under another id.
        splits: Rows kept by split.
        groups: Groups kept by split.
        largest_groups: The groups with most rows, with their rows.
        gold: Rows kept by gold label, in the order of the task's labels; empty where an answer is no single label.
        gold_splits: Rows kept that have a gold label, by split.
        problems: Problems by kind, those of rows that were kept included.
        cleaned: Repairs by kind, in cells.
        warnings: What a person should know, in words.
    """

    path: Path
    problems_path: Path | None
    read: int
    kept: int
    unusable: int
    merged: int
    beyond_limit: int
    duplicate_content: int
    splits: dict[str, int]
    groups: dict[str, int]
    largest_groups: dict[str, int]
    gold: dict[str, int]
    gold_splits: dict[str, int]
    problems: dict[str, int]
    cleaned: dict[str, int]
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: paths as text."""
        problems_path = str(self.problems_path) if self.problems_path else None
        return {**asdict(self), "path": str(self.path), "problems_path": problems_path}


def problems_path(out: Path) -> Path:
    """Where the rows that cannot be used are listed: ``rows_problems.jsonl`` next to ``rows.parquet``."""
    return out.with_name(f"{out.stem}_problems.jsonl")


def load_rows(
    config: DataConfig,
    *,
    task: Task,
    out: Path,
    seed: int,
    slices: Sequence[str] = (),
    limit: int | None = None,
) -> RowsSummary:
    """Streams ``data.rows`` into one parquet table.

    The table has ``row_id``, ``group``, ``split``, ``gold``, ``weight``, the task's inputs as text without nulls, the
    columns of ``slices`` and ``config.keep`` as text, and those that ``config.catalogue`` gives. It appears whole or
    not at all. A row that cannot be used is listed in :func:`problems_path` with its place and the reason.

    Args:
        config: The ``data`` section.
        task: Names the inputs and the labels.
        out: The parquet file to write; its folder is made.
        seed: Moves groups between splits where those are shares.
        slices: Further columns to carry along.
        limit: Keep this many rows: the first of every split, in proportion. Only the first ``max(20,000, 50 × limit)``
            rows are read then.

    Raises:
        DataError: The rows as a whole cannot be used: a file or columns are missing, nothing usable is left, more than
            ``max_bad_fraction`` cannot be used, a split is unknown, a group stands in two splits, or no gold label is
            in the label set.
    """
    plan = RowPlan.make(config, task, seed=seed, slices=slices)
    return _write(read_source(config, plan.wanted), plan, out=out, limit=limit)


def frame_rows(
    frame: pl.DataFrame | pl.LazyFrame | datasets.Dataset,
    config: DataConfig,
    *,
    task: Task,
    out: Path,
    seed: int = 0,
    slices: Sequence[str] = (),
    limit: int | None = None,
) -> RowsSummary:
    """Does what :func:`load_rows` does with a table that is already in memory.

    Args:
        frame: A polars table, lazy or not, or a Hugging Face data set (or a dict of them by split).
        config: The ``data`` section; ``rows``, ``format`` and ``encoding`` are not looked at.
        task: As there.
        out: As there.
        seed: As there.
        slices: As there.
        limit: As there.

    Raises:
        DataError: As there.
    """
    plan = RowPlan.make(config, task, seed=seed, slices=slices)
    if isinstance(frame, pl.DataFrame | pl.LazyFrame):
        batches = frame_batches(frame, plan.wanted, source="rows")
    else:
        batches = read_dataset(frame, plan.wanted, source="rows")
    return _write(batches, plan, out=out, limit=limit)


def _write(batches: Batches, plan: RowPlan, *, out: Path, limit: int | None) -> RowsSummary:
    if limit is not None and limit < 1:
        raise DataError(f"limit: at least one row is needed, got {limit}")
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.with_name(f".{out.name}.staging")
    # What a run that was killed left there is of no use.
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        with ProblemLog(problems_path(out)) as log:
            table = _Staged(plan, staging)
            most = None if limit is None else max(_LIMIT_READS_ROWS, _LIMIT_READS_TIMES * limit)
            table.read_all(batches, log, most_rows=most)
            return table.finish(log, out, limit)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Staged:
    """The rows on their way: batches on disk, and what must be known of all of them in memory."""

    def __init__(self, plan: RowPlan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._index = RowIndex()
        self._findings = Findings()
        self._parts: list[tuple[Path, int]] = []
        # Gold is held as a code: of a closed set by its place, else by the order of appearance.
        self._golds: list[str] = list(plan.task.labels) if plan.task.closed else []

    def read_all(self, batches: Batches, log: ProblemLog, *, most_rows: int | None) -> None:
        for batch in batches:
            frame = prepare(batch, self._plan, self._findings, log)
            if frame.height:
                self._golds += self._new_golds(frame)
                self._index.add(frame, labels=tuple(self._golds), inputs=self._plan.task.inputs)
                path = self._folder / f"{len(self._parts):06d}.parquet"
                frame.write_parquet(path, compression="lz4")
                self._parts.append((path, frame.height))
            if most_rows is not None and self._findings.read >= most_rows:
                break

    def _new_golds(self, frame: pl.DataFrame) -> list[str]:
        if self._plan.task.closed:
            return []
        known = frame["gold"].drop_nulls().unique(maintain_order=True)
        return known.filter(~known.is_in(self._golds)).to_list()

    def finish(self, log: ProblemLog, out: Path, limit: int | None) -> RowsSummary:
        plan, findings = self._plan, self._findings
        source = plan.source
        if not findings.read:
            raise DataError(f"{source}: there are no rows; check data.rows")
        findings.raise_if_wrong(plan, log)
        resolved = self._index.resolve()
        self._raise_if_leaking(resolved)
        self._list_duplicates(resolved, log)
        log.raise_if_too_bad(source, read=findings.read, most=plan.config.max_bad_fraction)
        keep = resolved.keep if limit is None else self._index.stratified(resolved.keep, limit)
        self._write_table(resolved, keep, out)
        log.flush()
        return self._summary(log, out, resolved, keep)

    def _raise_if_leaking(self, resolved: Resolution) -> None:
        leaking = self._index.leaking(without=resolved.clashing)
        if not len(leaking):
            return
        shown = ", ".join(repr(text) for text in self._rows_at(leaking[:_SHOWN_GROUPS])["group"])
        raise DataError(
            f"{self._plan.source}: {len(leaking)} group(s) stand in more than one split, such as {shown}; a student "
            f"would be tested on queries that it was trained on. Put each group into one split, or let distill divide "
            f"them: data.split: {{pool: 0.7, audit: 0.1, test: 0.2}}"
        )

    def _list_duplicates(self, resolved: Resolution, log: ProblemLog) -> None:
        for kind, rows, usable, detail in (
            ("duplicate_id", resolved.clashing, False, "an earlier row has this id and other inputs"),
            ("conflicting_gold", resolved.conflicting, True, "repeats an earlier row with another label, which stays"),
        ):
            for found in self._rows_at(rows).iter_rows(named=True):
                place = found.pop("__source"), found.pop("__unit"), found.pop("__number")
                log.add(kind, place, detail=detail, row_id=found["row_id"], row=found, usable=usable)

    def _rows_at(self, positions: np.ndarray) -> pl.DataFrame:
        """Reads some staged rows back."""
        positions = np.sort(positions)
        found, start = [], 0
        for path, height in self._parts:
            low, high = np.searchsorted(positions, [start, start + height])
            if high > low:
                found.append(pl.read_parquet(path)[positions[low:high] - start])
            start += height
        return pl.concat(found) if found else pl.DataFrame()

    def _write_table(self, resolved: Resolution, keep: np.ndarray, out: Path) -> None:
        """Applies what was resolved batch by batch, then joins the batches; ``out`` appears at once."""
        labels = pl.Series(self._golds, dtype=pl.String)
        start = 0
        for path, height in self._parts:
            part = slice(start, start + height)
            gold = pl.Series(resolved.gold[part])
            frame = pl.read_parquet(path).drop("__source", "__unit", "__number")
            frame = frame.with_columns(
                labels.gather(gold.set(gold < 0, None)).alias("gold"),
                pl.Series("weight", resolved.weight[part]),
            )
            kept = frame.filter(pl.Series(keep[part]))
            if (catalogue := self._plan.config.catalogue) is not None:
                kept = with_evidence(kept, catalogue, source=self._plan.task.source)
            kept.write_parquet(path, compression="lz4")
            start += height
        whole = self._folder / "whole.parquet"
        parts = pl.scan_parquet([path for path, _ in self._parts], glob=False)
        parts.sink_parquet(whole, compression="zstd", row_group_size=_ROW_GROUP_ROWS, maintain_order=True)
        os.replace(whole, out)

    def _summary(self, log: ProblemLog, out: Path, resolved: Resolution, keep: np.ndarray) -> RowsSummary:
        rows = pl.DataFrame(
            {
                "group": self._index.column("group")[keep],
                "split": self._index.column("split")[keep],
                "gold": resolved.gold[keep],
            }
        )
        by_split = dict(rows.group_by("split").len().iter_rows())
        groups = dict(rows.group_by("split").agg(pl.col("group").n_unique()).iter_rows())
        gold = dict(rows.group_by("gold").len().iter_rows())
        gold_splits = dict(rows.filter(pl.col("gold") >= 0).group_by("split").len().iter_rows())
        largest = pl.scan_parquet(out, glob=False).group_by("group").len()
        largest = largest.sort(["len", "group"], descending=[True, False]).head(_LARGEST_GROUPS)
        splits = {name: by_split[code] for code, name in enumerate(SPLITS) if code in by_split}
        return RowsSummary(
            path=out,
            problems_path=log.path if log.problems else None,
            read=self._findings.read,
            kept=int(keep.sum()),
            unusable=log.unusable,
            merged=len(resolved.merged),
            beyond_limit=int(resolved.keep.sum() - keep.sum()),
            duplicate_content=resolved.duplicate_content,
            splits=splits,
            groups={name: groups[code] for code, name in enumerate(SPLITS) if code in groups},
            largest_groups=dict(largest.collect(engine="streaming").iter_rows()),
            gold={
                name: gold[code]
                for code, name in enumerate(self._golds if self._plan.task.closed else ())
                if code in gold
            },
            gold_splits={name: gold_splits[code] for code, name in enumerate(SPLITS) if code in gold_splits},
            problems=dict(sorted(log.problems.items())),
            cleaned=dict(sorted(self._findings.cleaned.items())),
            warnings=_warnings(self._plan, self._findings, splits, Counter(groups)),
        )


def _warnings(plan: RowPlan, findings: Findings, splits: dict[str, int], groups: Counter[int]) -> list[str]:
    notes = [f"{source} {note}" for source, note in findings.notes.items()]
    empty = [name for name, share in plan.shares.items() if share and name not in splits]
    if not empty:
        return notes
    return [
        *notes,
        f"no rows fell into {', '.join(empty)}: there are only {groups.total()} groups; give more rows, or let "
        "data.split name a column",
    ]
