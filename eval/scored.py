"""Predictions laid against the truth, as arrays that metrics and intervals read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from distill.eval.drawn_rows import chances
from distill.eval.metrics import Floats, Ints
from distill.labeling.errors import DataError
from distill.labeling.task import Task

TruthSource = Literal["human", "author", "teacher"]
"""Whose labels a number is measured against. ``teacher`` is no accuracy: it is agreement with merged labels."""


@dataclass(frozen=True)
class Scored:
    """Predictions on the rows of a split whose truth is known.

    Attributes:
        frame: The rows, ``n`` of them, in order of ``row_id``.
        gold: ``[n]``, index of the true label.
        predicted: ``[n]``, index of the predicted label.
        probs: ``[n, L]``, None where any row lacks a distribution.
        weight: ``[n]``, how often each row counts.
        unanswered: Rows with a truth and no prediction: they are in no number, and every reader is told of them.
        drawn: Whether rows were drawn for labeling with unequal chances, which ``weight`` then undoes.
    """

    frame: pl.DataFrame
    gold: Ints
    predicted: Ints
    probs: Floats | None
    weight: Floats
    unanswered: int
    drawn: bool = False

    @property
    def group(self) -> np.ndarray:
        """``[n]``, each row's group."""
        return self.frame["group"].to_numpy()


def score_rows(
    predictions: pl.DataFrame, rows: pl.DataFrame, *, task: Task, split: str | None = "test", weighted: bool = True
) -> Scored:
    """Joins predictions to the rows that have a truth.

    A row that was drawn for labeling with a probability ``chance`` stands for ``1 / chance`` rows, and counts as many;
    one without a chance was labeled for certain.

    Args:
        predictions: ``row_id``, ``label`` and, for metrics of probability, ``probs``. Rows that it lacks, or whose
            label is null, count as unanswered.
        rows: The rows table.
        task: For the labels and their order.
        split: Rows of this split only; None for all.
        weighted: Whether a row counts as often as its ``weight``.

    Raises:
        DataError: A column is missing, no row of the split has a truth or a prediction, a label is outside the set,
            or a row is predicted twice.
    """
    for name, table, wanted in (
        ("predictions", predictions, ("row_id", "label")),
        ("rows", rows, ("row_id", "group", "split", "gold")),
    ):
        if missing := [column for column in wanted if column not in table.columns]:
            raise DataError(f"evaluate: {name} need the columns {', '.join(wanted)}, lack {', '.join(missing)}")
    if predictions["row_id"].is_duplicated().any():
        twice = predictions.filter(pl.col("row_id").is_duplicated())["row_id"][0]
        raise DataError(f"evaluate: row {twice!r} is predicted twice; keep one prediction a row")
    known = rows.filter(pl.col("gold").is_not_null())
    if split is not None:
        known = known.filter(pl.col("split") == split)
    if known.is_empty():
        raise DataError(
            f"evaluate: no row of split {split!r} has a gold label, so no accuracy can be told; give some rows gold "
            "labels, or measure agreement with merged labels (rows_with_merged_truth, truth source 'teacher')"
        )
    answers = predictions.filter(pl.col("label").is_not_null())
    columns = ["row_id", pl.col("label").alias("predicted_label")] + (["probs"] if "probs" in answers.columns else [])
    joined = known.drop("probs", "predicted_label", strict=False).join(answers.select(columns), on="row_id")
    if joined.is_empty():
        raise DataError(f"evaluate: none of the {len(known)} rows with a gold label in split {split!r} is predicted")
    joined = joined.sort("row_id")
    weight = joined["weight"].to_numpy().astype(float) if weighted and "weight" in joined.columns else None
    weight = np.ones(len(joined)) if weight is None else weight
    chance = chances(joined, "evaluate")
    weight = weight if chance is None else weight / chance
    return Scored(
        frame=joined,
        gold=label_indices(joined["gold"], task, "rows"),
        predicted=label_indices(joined["predicted_label"], task, "predictions"),
        probs=_distributions(joined, len(task.labels)),
        weight=weight,
        unanswered=len(known) - len(joined),
        drawn=chance is not None,
    )


def rows_with_merged_truth(rows: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Puts merged labels in the place of gold, for ``evaluate(..., truth_source="teacher")``.

    Agreement with merged labels ranks students and does not grade them: it reads high, since the student learned to
    imitate the same teachers. Every number of it says so.

    Args:
        rows: The rows table; its own gold is put aside.
        labels: The labels table, ``row_id`` and ``label``.
    """
    # Chances are those of labels by people: every row that has a merged one has it for certain.
    return rows.drop("gold", "chance", strict=False).join(
        labels.select("row_id", pl.col("label").alias("gold")), on="row_id", how="left"
    )


def predictions_from_votes(votes: pl.DataFrame, teacher: str, *, rows: pl.DataFrame | None = None) -> pl.DataFrame:
    """One teacher's votes as a predictions table, so that a teacher can stand on the ladder beside its students.

    Args:
        votes: The votes table.
        teacher: Whose votes.
        rows: Keep these rows only; all by default.

    Returns:
        ``row_id``, ``label``, ``probs`` (null where the teacher states none) of the rows that it labeled.
    """
    said = collapse_votes(votes).filter(pl.col("teacher") == teacher)
    if rows is not None:
        said = said.join(rows.select("row_id"), on="row_id", how="semi")
    return said.select("row_id", "label", "probs")


def collapse_votes(votes: pl.DataFrame) -> pl.DataFrame:
    """One line a row and teacher: repeats (``sample``) and rounds are brought down to the answer that stands.

    The latest round counts. Among repeats the commonest label does, the earliest sample breaking ties, and its first
    vote is the one kept, with its trace and clauses. Only ``labeled`` votes appear.
    """
    said = votes.filter(pl.col("outcome") == "labeled")
    for column, value in (("round", 0), ("sample", 0)):
        if column not in said.columns:
            said = said.with_columns(pl.lit(value).alias(column))
    key = ["row_id", "teacher"]
    said = said.filter(pl.col("round") == pl.col("round").max().over(key))
    said = said.with_columns(pl.len().over([*key, "label"]).alias("_times"))
    said = said.sort([*key, "_times", "sample"], descending=[False, False, True, False])
    return said.unique(subset=key, keep="first", maintain_order=True).drop("_times")


def said_in_full(votes: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """:func:`collapse_votes` of the rows that are there, with everything that a review looks at.

    Args:
        votes: The votes table; ``family``, ``clauses``, ``trace`` and ``probs`` where they are known.
        rows: ``row_id``, ``group`` and, where known, ``gold``.

    Returns:
        The columns of the votes, with ``family`` (the teacher itself where none is known), ``clauses``, ``trace``,
        ``probs``, ``group`` and ``gold``, null where nothing is known.
    """
    said = collapse_votes(votes).drop("group", "gold", strict=False)
    for column, kind in (("clauses", pl.List(pl.String)), ("trace", pl.String), ("probs", pl.List(pl.Float64))):
        if column not in said.columns:
            said = said.with_columns(pl.lit(None, dtype=kind).alias(column))
    family = pl.col("family").fill_null(pl.col("teacher")) if "family" in said.columns else pl.col("teacher")
    gold = pl.col("gold") if "gold" in rows.columns else pl.lit(None, dtype=pl.String).alias("gold")
    said = said.with_columns(family.alias("family"))
    return said.join(rows.select("row_id", "group", gold), on="row_id", how="inner")


def label_indices(column: pl.Series, task: Task, where: str) -> Ints:
    """Turns labels into indices of ``task.labels``.

    Raises:
        DataError: A label is outside the set.
    """
    codes = column.replace_strict(
        {label: i for i, label in enumerate(task.labels)}, default=None, return_dtype=pl.Int64
    )
    if codes.null_count():
        odd = column.filter(codes.is_null())[0]
        raise DataError(f"evaluate: {where} hold the label {odd!r}, which is none of {list(task.labels)}; correct it")
    return codes.to_numpy()


def _distributions(joined: pl.DataFrame, labels: int) -> Floats | None:
    if "probs" not in joined.columns or joined["probs"].null_count():
        return None
    if (joined["probs"].list.len() != labels).any():
        raise DataError(f"evaluate: probs must hold {labels} numbers a row, one for each label, in the task's order")
    probs = joined["probs"].explode().to_numpy().astype(float).reshape(-1, labels)
    totals = probs.sum(axis=1, keepdims=True)
    if not np.isfinite(probs).all() or (probs < 0).any() or (totals <= 0).any():
        bad = joined["row_id"][int(np.argmin(np.isfinite(probs).all(axis=1) & (probs >= 0).all(axis=1)))]
        raise DataError(f"evaluate: the probs of row {bad!r} are no distribution (negative, NaN or all zero)")
    return probs / totals
