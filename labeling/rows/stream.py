"""Rows one batch at a time, as they come: for prediction, where nothing is split, merged or left in doubt."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.rows.data_config import DataConfig
from distill.labeling.rows.files import read_source
from distill.labeling.rows.plan import RowPlan
from distill.labeling.rows.prepare import Findings, prepare
from distill.labeling.rows.problems import ProblemLog
from distill.labeling.task import Task


def stream_rows(config: DataConfig, *, task: Task, log: ProblemLog) -> Iterator[pl.DataFrame]:
    """Yields every usable row in the order of the source, cleaned as ``load_rows`` cleans it.

    Unlike there, a row that repeats another is a row of its own: who asks for predictions wants one a line.

    Args:
        config: The ``data`` section; its splits are given to the rows and mean nothing here.
        task: Names the inputs.
        log: Takes the rows that cannot be used.

    Yields:
        ``row_id``, ``group``, ``split``, ``gold``, ``weight`` and the task's inputs.

    Raises:
        DataError: The source or a column is missing, or no row can be used.
    """
    plan = RowPlan.make(config, task, seed=0)
    findings = Findings()
    found = 0
    for batch in read_source(config, plan.wanted):
        frame = prepare(batch, plan, findings, log).drop("__source", "__unit", "__number")
        found += len(frame)
        if len(frame):
            yield frame
    if not findings.read:
        raise DataError(f"{plan.source}: there are no rows; check the file")
    if not found:
        log.raise_if_too_bad(plan.source, read=findings.read, most=1.0)
