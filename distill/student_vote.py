"""A student's out-of-fold predictions of the rows that teachers voted on, so that it can join the vote."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.merging.aggregate_config import StudentVoteConfig
from distill.session import Session
from distill.students.config import LABELS, DcnConfig

if TYPE_CHECKING:
    from distill.labeling.task import Task

LOGISTIC = "logistic regression"


class StudentVote(NamedTuple):
    """What a student thinks of rows that it did not learn from.

    Attributes:
        predictions: ``row_id`` and ``probs``; None where there were too few rows or queries to learn from.
        model: What predicted, in words.
        folds: Parts of the groups.
        learned: Rows learned from, over all parts.
    """

    predictions: pl.DataFrame | None
    model: str
    folds: int
    learned: int


def student_vote(session: Session, labels: pl.DataFrame, settings: StudentVoteConfig) -> StudentVote:
    """Has a student predict every labeled row, each by the rows of other groups.

    It learns the labels merged without it. Rows of split ``test`` and ``audit`` are predicted and never learned from,
    as for the students of the recipe. Merged labels follow the loud voters and the commonest label; a student that
    learned how often each label comes would only be louder, so that labels weigh the same in all (measured: with labels
    as frequent as they come, labels of functions lose 2 to 10 points).

    Args:
        session: The run.
        labels: Labels merged without a student.
        settings: Which student, and how many parts.
    """
    rows = pl.read_parquet(session.folder.rows)
    known = labels.filter(pl.col("label").is_not_null()).select("row_id", "label", "confidence", target="probs")
    table = rows.select("row_id", "group", "split", *session.task.inputs).join(
        known, on="row_id", maintain_order="left"
    )
    learned = table.filter(~pl.col("split").is_in(["test", "audit"]))
    name = settings.name or LOGISTIC
    folds = min(settings.folds, learned["group"].n_unique())
    if folds < 2 or learned["label"].n_unique() < 2:
        return StudentVote(None, name, folds, len(learned))
    found = (
        _logistic(session, table, folds)
        if settings.name is None
        else pl.concat(_by_dcn(session, rows, labels, table, settings=settings, folds=folds))
    )
    return StudentVote(found, name, folds, len(learned))


def balanced_weights(table: pl.DataFrame, task: Task) -> np.ndarray:
    """``[N]``, the label's confidence, each label weighing the same in all; 0 for rows that are not learned from."""
    held = table["split"].is_in(["test", "audit"]).to_numpy()
    weight = np.where(held, 0.0, table["confidence"].to_numpy())
    codes = table["label"].replace_strict(list(task.labels), range(len(task.labels)), return_dtype=pl.Int64).to_numpy()
    total = np.bincount(codes, weights=weight, minlength=len(task.labels))
    found: np.ndarray = weight * weight.sum() / np.maximum(total, 1e-12)[codes] / max((total > 0).sum(), 1)
    return found


def _logistic(session: Session, table: pl.DataFrame, folds: int) -> pl.DataFrame:
    from distill.students.confident_learning import out_of_fold_probs

    weighed = table.with_columns(weight=pl.Series(balanced_weights(table, session.task)))
    probs = out_of_fold_probs(weighed, inputs=session.task.inputs, folds=folds, seed=session.recipe.seed)
    return table.select("row_id").with_columns(probs=pl.Series(probs.tolist(), dtype=pl.List(pl.Float64)))


def _by_dcn(
    session: Session,
    rows: pl.DataFrame,
    labels: pl.DataFrame,
    table: pl.DataFrame,
    *,
    settings: StudentVoteConfig,
    folds: int,
) -> Iterator[pl.DataFrame]:
    """The recipe's student, trained once a part and thrown away."""
    from distill.students.fit import fit_student
    from distill.students.student import load_student
    from distill.students.training_set import training_set

    assert settings.name is not None
    config, task, seed = session.recipe.students[settings.name], session.task, session.recipe.seed
    assert isinstance(config, DcnConfig)
    groups = table["group"].unique(maintain_order=True)
    parts = np.random.default_rng(seed).permutation(len(groups)) % folds
    folder = session.folder.path / "student_vote"
    try:
        for part in range(folds):
            session.progress.step(f"{settings.name}, out of fold", done=part, total=folds)
            held = pl.col("group").is_in(groups.filter(pl.Series(parts == part)).implode())
            training = training_set(
                rows.filter(~held), train_on=LABELS, labels=labels, votes=None, task=task, seed=seed
            )
            fit_student(config.model_copy(update={"train_on": (LABELS,)}), training, task=task, out=folder, seed=seed)
            yield load_student(folder).predict(table.filter(held)).select("row_id", "probs")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
