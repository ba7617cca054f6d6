"""What is found out about weak labels before a training: rows to leave out, and what each source confuses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.confident_learning import label_issues, out_of_fold_probs
from distill.students.config import HUMAN, StudentConfig
from distill.students.losses.config import ForwardCorrection, Pruning
from distill.students.task_fit import student_problems
from distill.students.training_set import TrainingSet

PRUNED_FILE = "pruned.parquet"
"""In a student's folder: the rows that were left out, and why."""


class Prepared(NamedTuple):
    """A training as it will be run.

    Attributes:
        config: The student's section, with estimated matrices filled in.
        training: The rows, less the pruned ones.
        pruned: Rows left out: ``row_id``, ``group``, ``source``, ``label`` (what the source said), ``suspected`` (the
            label that others like it have), ``probs`` List[f64] (out of fold); None where none were looked for.
    """

    config: StudentConfig
    training: TrainingSet
    pruned: pl.DataFrame | None


def prepare_weak_labels(config: StudentConfig, training: TrainingSet, *, task: Task, seed: int) -> Prepared:
    """Prunes rows and estimates confusion matrices, where the section asks for it.

    Raises:
        StudentError: The loss or head does not fit the task, or there is nothing to estimate from.
    """
    problems = [f"{key}: {text}" for key, text in student_problems(config, task)]
    if problems:
        raise StudentError("; ".join(problems))
    pruned = None
    if config.prune is not None:
        training, pruned = prune(training, config.prune, task=task, seed=seed)
    if isinstance(config.loss, ForwardCorrection) and config.loss.matrices is None:
        sources = [source for source in config.train_on if source != HUMAN]
        matrices = {
            source: confusion_of(training.paired, source, task=task, shrinkage=config.loss.shrinkage)
            for source in sources
        }
        plain = {source: tuple(map(tuple, matrix.tolist())) for source, matrix in matrices.items()}
        config = config.model_copy(update={"loss": config.loss.model_copy(update={"matrices": plain})})
    return Prepared(config, training, pruned)


def confusion_of(paired: pl.DataFrame, source: str, *, task: Task, shrinkage: float) -> np.ndarray:
    r"""What a source says of rows whose true label people gave: ``C_ij = P(source says j | i is true)``.

    .. math:: C_{ij} = \frac{n_{ij} + s \, P_{ij}}{n_i + s}

    with :math:`n_{ij}` the weight that the source's distributions put on j over the rows of gold i, :math:`s` the
    shrinkage, and P the matrix of even confusions: the source's share of right answers over all labels,
    :math:`a = (\sum_i n_{ii} + 1) / (n + 2)`, on its diagonal, the rest spread evenly.

    Args:
        paired: From :class:`distill.students.training_set.TrainingSet`.
        source: Entry of ``train_on``.
        task: What the labels are.
        shrinkage: In rows.

    Returns:
        ``[K, K]``, each line summing to one.

    Raises:
        StudentError: No row has both.
    """
    found = paired.filter(pl.col("source") == source)
    if found.is_empty():
        raise StudentError(
            f"forward_correction: no row of split train has both gold and a label of {source!r}, so what it confuses "
            "is not known; give loss.matrices, or gold to some rows that it labels"
        )
    size = len(task.labels)
    counts = np.zeros((size, size))
    gold = np.array([task.labels.index(name) for name in found["gold"]])
    weight = found["weight"].to_numpy()
    np.add.at(counts, gold, np.array(found["target"].to_list()) * (weight / weight.mean())[:, None])
    right = (np.trace(counts) + 1.0) / (counts.sum() + 2.0)
    even = np.full((size, size), (1.0 - right) / (size - 1))
    np.fill_diagonal(even, right)
    below = counts.sum(axis=1, keepdims=True) + shrinkage
    found_any = below > 0
    matrix: np.ndarray = np.where(found_any, (counts + shrinkage * even) / np.where(found_any, below, 1.0), even)
    return matrix


def prune(training: TrainingSet, settings: Pruning, *, task: Task, seed: int) -> tuple[TrainingSet, pl.DataFrame]:
    """Leaves out training rows that confident learning finds mislabeled; rows of source ``human`` never.

    Validation rows stay as they are. The weights of those that remain are scaled back to mean 1.

    Returns:
        The rest, and the table of :attr:`Prepared.pruned`.

    Raises:
        StudentError: There are too few groups or labels to judge rows by others.
    """
    train = training.train
    probs = out_of_fold_probs(train, inputs=task.inputs, folds=settings.folds, seed=seed)
    given = np.array(train["target"].to_list()).argmax(axis=1)
    weak = (train["source"] != HUMAN).to_numpy()
    issues = np.zeros(train.height, dtype=bool)
    issues[weak] = label_issues(given[weak], probs[weak], most=settings.most)
    labels = np.array(task.labels)
    pruned = train.select("row_id", "group", "source").with_columns(
        label=pl.Series(labels[given], dtype=pl.String),
        suspected=pl.Series(labels[probs.argmax(axis=1)], dtype=pl.String),
        probs=pl.Series(probs.tolist(), dtype=pl.List(pl.Float64)),
    )
    kept = train.filter(~issues).with_columns(pl.col("weight") / pl.col("weight").mean())
    return TrainingSet(kept, training.validation, training.paired), pruned.filter(issues)
