"""People's few labels beside many of a teacher: what the teacher says is set right by them before a student learns it.

A large model may be far stricter than people, or surer than it is right. A student of it then learns to be so too. The
queries that people judged tell: the merged distributions are mapped so that they fit people's labels there, and where a
row has both, the target is a mean of the two. A one-hot label in place of the distribution costs more than it gives.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from distill.labeling.task import Task
from distill.students.calibration import Calibration, calibrated, fit_calibration
from distill.students.config import HUMAN, StudentConfig
from distill.students.training_set import TrainingSet, one_hot, training_set

_LEAST_PROBABILITY = 1e-3
"""Taken for less, since its logarithm is what is mapped: a teacher that says 0 has ruled nothing out."""


def targets_for(
    config: StudentConfig,
    rows: pl.DataFrame,
    *,
    labels: pl.DataFrame | None,
    votes: pl.DataFrame | None,
    task: Task,
    seed: int,
) -> TrainingSet:
    """What a student's section learns from: :func:`training_set`, with people's labels used as the section says.

    Args:
        config: The section.
        rows: The rows table.
        labels: The labels table, where the section learns from it.
        votes: The votes table, likewise.
        task: What the labels and inputs are.
        seed: Of the validation split.

    Raises:
        StudentError: As :func:`training_set` does.
    """
    if not task.closed:
        from distill.students.queries.part_targets import part_targets

        return part_targets(config, rows, labels=labels, votes=votes, task=task, seed=seed)
    if labels is not None and config.match_people:
        labels, _ = match_people(labels, rows, task=task)
    training = training_set(
        rows,
        train_on=config.train_on,
        labels=labels,
        votes=votes,
        task=task,
        validation_share=config.validation,
        seed=seed,
    )
    return training if labels is None else share_targets(training, labels, human_share=config.human_share)


def match_people(labels: pl.DataFrame, rows: pl.DataFrame, *, task: Task) -> tuple[pl.DataFrame, Calibration]:
    """Maps merged labels so that they fit the gold of split ``train``, on which alone the map is fitted.

    The map is one of :mod:`distill.students.calibration` on ``log probs``, of least log loss over queries: a
    temperature, a scale and a bias for each label, or a curve. ``label`` and ``confidence`` follow the new ``probs``.

    Args:
        labels: ``row_id``, ``label``, ``probs``, and others, which stay.
        rows: The rows table.
        task: For the labels' order.

    Returns:
        The labels, and the map; those that came in, and no map, where fewer than twenty rows have both.
    """
    judged = rows.filter((pl.col("split") == "train") & pl.col("gold").is_in(list(task.labels)))
    known = labels.filter(pl.col("probs").is_not_null())
    both = judged.join(known.select("row_id", "probs"), on="row_id", maintain_order="left")
    gold = both.select(one_hot(pl.col("gold"), labels=task.labels).alias("gold"))["gold"]
    found = fit_calibration(
        _log_probs(both["probs"], task), np.array(gold.to_list()), group=both["group"].to_numpy(), source="train gold"
    )
    if found.source == "none":
        return labels, found
    probs = calibrated(_log_probs(known["probs"], task), found)
    mapped = known.select("row_id").with_columns(
        pl.Series("probs", probs.tolist(), dtype=pl.List(pl.Float64)),
        pl.Series("label", [task.labels[place] for place in probs.argmax(axis=1)], dtype=pl.String),
        pl.Series("confidence", probs.max(axis=1)),
    )
    present = [name for name in mapped.columns if name in labels.columns]
    return labels.update(mapped.select(present), on="row_id", how="left"), found


def share_targets(training: TrainingSet, labels: pl.DataFrame, *, human_share: float) -> TrainingSet:
    """Where a row learns from people and has a merged label too: ``share * one-hot + (1 - share) * probs``.

    Args:
        training: What was collected.
        labels: The merged labels.
        human_share: People's share of the target.
    """
    if human_share == 1.0:
        return training
    return replace(
        training,
        train=_shared(training.train, labels, human_share),
        validation=_shared(training.validation, labels, human_share),
    )


def _shared(table: pl.DataFrame, labels: pl.DataFrame, share: float) -> pl.DataFrame:
    known = labels.filter(pl.col("probs").is_not_null()).select("row_id", merged="probs")
    joined = table.join(known, on="row_id", how="left", maintain_order="left")
    both = (pl.col("source") == HUMAN) & pl.col("merged").is_not_null()
    mean = pl.col("target") * share + pl.col("merged") * (1.0 - share)
    joined = joined.with_columns(target=pl.when(both).then(mean).otherwise(pl.col("target")))
    return joined.drop("merged")


def _log_probs(probs: pl.Series, task: Task) -> np.ndarray:
    given = np.array(probs.to_list(), dtype=np.float64).reshape(-1, len(task.labels))
    return np.asarray(np.log(np.maximum(given, _LEAST_PROBABILITY)))
