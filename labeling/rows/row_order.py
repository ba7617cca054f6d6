"""The order in which rows are asked."""

from __future__ import annotations

import polars as pl

from distill.labeling.task import Task

ALONE_COLUMN = "_alone"
"""Column of a batch that says of a row that it is there to be asked alone beside others, to compare the answers."""


def together(batch: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Puts rows with the same first input together: a server still holds their common beginning in its prefix cache."""
    return batch.sort(task.inputs[0], maintain_order=True)
