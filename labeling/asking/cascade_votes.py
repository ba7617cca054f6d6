"""The votes of a cascade: what the cheap teacher said and how sure it was, and which votes make the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from distill.labeling.asking.cascade import Floats, Judged, sureness
from distill.labeling.cascade_config import CascadeConfig, SurenessBy
from distill.labeling.errors import DataError
from distill.labeling.task import Task

CASCADE_CAUSE = "cascade"
"""Cause of votes that were not asked for since another teacher's answer does: they are no failures."""


def answers_of(votes: pl.DataFrame, *, task: Task, by: SurenessBy) -> pl.DataFrame:
    """One teacher's answer to each row that it labeled, and how sure it is.

    Distributions are averaged over samples, a bare label counting as certain of itself, so that several samples give
    the share of each label. The label is the likeliest, of equals the one given most often, as merging does it.

    Args:
        votes: Of one teacher: ``row_id``, ``outcome``, ``label``, ``probs``.
        task: For the labels.
        by: What sureness is.

    Returns:
        ``row_id``, ``label`` and ``sureness``; the latter null where a single bare label says nothing of it.
    """
    said = votes.filter(pl.col("outcome") == "labeled")
    if said.is_empty():
        return pl.DataFrame(schema={"row_id": pl.String, "label": pl.String, "sureness": pl.Float64})
    ids = said["row_id"].unique(maintain_order=True)
    row = said["row_id"].replace_strict(ids, np.arange(len(ids)), return_dtype=pl.Int64).to_numpy()
    codes = {label: code for code, label in enumerate(task.labels)}
    hard = np.eye(len(codes))[said["label"].replace_strict(codes, return_dtype=pl.Int64).to_numpy()]
    probs = hard.copy()
    stated = said["probs"].is_not_null().to_numpy()
    if stated.any():
        probs[stated] = said["probs"].drop_nulls().explode().to_numpy().reshape(-1, len(codes))
    times = np.bincount(row, minlength=len(ids)).astype(np.float64)
    mean = _sums(probs, row, len(ids)) / times[:, None]
    likeliest = mean >= mean.max(axis=1, keepdims=True) - 1e-9
    label = np.where(likeliest, _sums(hard, row, len(ids)) + 1.0, 0.0).argmax(axis=1)
    told = (times > 1) | (np.bincount(row, weights=stated, minlength=len(ids)) > 0)
    return pl.DataFrame(
        {
            "row_id": ids,
            "label": pl.Series(task.labels, dtype=pl.String).gather(label),
            "sureness": pl.Series(sureness(mean, by=by)).set(pl.Series(~told), None),
        }
    )


def judged_rows(cheap: pl.DataFrame, truth: pl.DataFrame, *, task: Task, config: CascadeConfig) -> Judged:
    """Lays the cheap teacher's answers beside what they are measured against.

    Args:
        cheap: As :func:`answers_of` gives them.
        truth: ``row_id``, ``group`` and ``truth`` of the calibration rows; without a truth a row is left out.
        task: For the positive label.
        config: What is measured.

    Raises:
        DataError: The cheap teacher never says how sure it is.
    """
    both = truth.filter(pl.col("truth").is_not_null()).join(cheap, on="row_id", maintain_order="left")
    if len(cheap) and not cheap["sureness"].is_not_null().any():
        raise DataError(
            f"labeling.cascade: {config.cheap} gives bare labels and never says how sure it is, so nothing tells which "
            f"of them to keep; give teachers.{config.cheap}.probs: confidence, a lane that reads log-probabilities, or "
            "labeling.samples of 2 or more, whose agreement then says it"
        )
    # Nobody knows how sure it was: such an answer is never kept, and says nothing of those that are.
    both = both.filter(pl.col("sureness").is_not_null())
    wrong = (both["label"] != both["truth"]).to_numpy()
    counts = np.ones(len(both), dtype=bool)
    if config.measure == "positive_precision":
        counts = (both["label"] == task.positive).to_numpy()
    group = both["group"].rank("dense").cast(pl.Int64) - 1
    return Judged(both["sureness"].to_numpy(), wrong & counts, counts, group.to_numpy())


def kept_rows(cheap: pl.DataFrame, threshold: float | None) -> pl.Series:
    """Ids of the rows whose answer is kept; none without a threshold."""
    if threshold is None:
        return cheap["row_id"].head(0)
    return cheap.filter(pl.col("sureness") >= threshold)["row_id"]


def standing_votes(votes: pl.DataFrame, order: Sequence[str]) -> pl.DataFrame:
    """The votes that make the labels: of the teachers of a cascade, a later one's label takes an earlier one's place.

    Votes of an earlier teacher are left out where a later one labeled the row. All votes stay in ``votes.parquet``,
    where the two can be compared.

    Args:
        votes: The votes table.
        order: The teachers of the cascade, the cheapest first.
    """
    place = pl.col("teacher").replace_strict(list(order), range(len(order)), default=len(order))
    labeled = votes.filter(pl.col("outcome") == "labeled").with_columns(_place=place)
    last = labeled.group_by("row_id").agg(_last=pl.col("_place").max())
    found = votes.with_columns(_place=place).join(last, on="row_id", how="left", maintain_order="left")
    stands = (pl.col("outcome") != "labeled") | (pl.col("_place") >= pl.col("_last"))
    return found.filter(stands).drop("_place", "_last")


def overruled_left_out(votes: pl.DataFrame, *, by: str) -> pl.DataFrame:
    """The votes that make the labels where one teacher overrules all others: theirs are left out where it labeled.

    Args:
        votes: The votes table.
        by: The teacher.
    """
    labeled = pl.col("outcome") == "labeled"
    decided = votes.filter(labeled & (pl.col("teacher") == by))["row_id"].unique()
    stands = ~labeled | (pl.col("teacher") == by) | ~pl.col("row_id").is_in(decided.implode())
    return votes.filter(stands)


def _sums(values: Floats, row: np.ndarray, rows: int) -> Floats:
    """Sums lines by row."""
    return np.stack([np.bincount(row, weights=column, minlength=rows) for column in values.T], axis=1)
