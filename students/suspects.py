"""Labels that a student of the others contradicts: rows to ask a better judge about."""

from __future__ import annotations

import numpy as np
import polars as pl

from distill.labeling.task import Task
from distill.students.confident_learning import label_issues, out_of_fold_probs

SUSPECT_SCHEMA: dict[str, pl.DataType] = {
    "row_id": pl.String(),
    "label": pl.String(),
    "suspected": pl.String(),
    "margin": pl.Float64(),
}
"""Columns of what :func:`suspected_errors` gives."""
_FOLDS = 5


def suspected_errors(
    rows: pl.DataFrame, labels: pl.DataFrame, *, task: Task, most: int, seed: int, among: pl.Series | None = None
) -> pl.DataFrame:
    """The merged labels that are most clearly contradicted by what the other queries' labels teach.

    Confident learning, see :mod:`distill.students.confident_learning`: a row is judged by a model that has seen no row
    of its group, never by a student that learned the very label that is doubted.

    Args:
        rows: The rows table: ``row_id``, ``group``, ``weight`` and the inputs.
        labels: The labels table; rows without a label say nothing.
        task: For labels and inputs.
        most: Suspects at most.
        seed: Of the folds.
        among: Ids of the rows that may be suspects; the others teach only. All where None.

    Returns:
        The columns of :data:`SUSPECT_SCHEMA`, the most clearly contradicted first: the label given, the one suspected,
        and how much more probable that one is. None where there are fewer than two groups.
    """
    known = labels.filter(pl.col("probs").is_not_null()).select("row_id", "label", target="probs")
    table = rows.join(known, on="row_id", how="inner", maintain_order="left")
    able = pl.lit(True) if among is None else pl.col("row_id").is_in(among.implode())
    able_rows = table.select(able.alias("able"))["able"].to_numpy()
    if most < 1 or table["group"].n_unique() < 2 or not able_rows.any():
        return pl.DataFrame(schema=SUSPECT_SCHEMA)
    probs = out_of_fold_probs(table, inputs=task.inputs, folds=_FOLDS, seed=seed)
    codes = {label: code for code, label in enumerate(task.labels)}
    given = table["label"].replace_strict(codes, return_dtype=pl.Int64).to_numpy()
    issues = label_issues(given, probs, most=1.0) & able_rows
    at = np.arange(len(given))
    suspected = probs.argmax(axis=1)
    found = pl.DataFrame(
        {
            "row_id": table["row_id"],
            "label": table["label"],
            "suspected": pl.Series(task.labels, dtype=pl.String).gather(suspected),
            "margin": probs[at, suspected] - probs[at, given],
        },
        schema=SUSPECT_SCHEMA,
    )
    return found.filter(pl.Series(issues)).sort("margin", "row_id", descending=[True, False]).head(most)
