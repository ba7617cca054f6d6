"""Which traces and citations a student may learn from, and as what numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from distill.labeling.answers.traces import trace_problems
from distill.labeling.task import Task
from distill.students.training_set import TrainingSet

_TEACHES_NOTHING = ("contradicts_label", "repeats_listing", "empty")


@dataclass(frozen=True)
class TraceCounts:
    """What became of the training rows' traces.

    Attributes:
        rows: Training rows.
        traces: Rows whose trace is learned from.
        citations: Rows whose cited clauses are learned from.
        dropped: Traces left out, by what is wrong with them; their rows stay.
    """

    rows: int
    traces: int
    citations: int
    dropped: dict[str, int]


def fit_traces(training: TrainingSet, task: Task) -> tuple[TrainingSet, TraceCounts]:
    """Takes out the traces that teach something wrong or nothing; every row stays, with its label.

    ==================== ======================================================== =================================
    problem              what it is                                               what is taken out
    ==================== ======================================================== =================================
    ``contradicts_label`` it concludes another label than the row's target        the trace and its citations, which
                                                                                  were given for that other label
    ``repeats_listing``  most of it is copied from the row                        the trace
    ``empty``            nothing in it                                            the trace
    ==================== ======================================================== =================================

    Ids that the guideline does not have are taken out of ``clauses`` in any case, and a row that cites none that it
    has counts as not known rather than as one to which no clause applies.

    Returns:
        The rows to learn from, and counts of those of ``train``.
    """
    train, counts = _fit(training.train, task)
    validation, _ = _fit(training.validation, task)
    return replace(training, train=train, validation=validation), counts


def clause_vocabulary(train: pl.DataFrame, *, fewest: int) -> tuple[str, ...]:
    """Clauses that are cited in at least ``fewest`` rows, in the order of their letters and numbers."""
    cited = train.select(pl.col("clauses").list.unique()).explode("clauses").drop_nulls()
    counts = cited.group_by("clauses").len().filter(pl.col("len") >= fewest)
    return tuple(sorted(counts["clauses"].to_list(), key=_natural))


def clause_labels(
    train: pl.DataFrame, vocabulary: Sequence[str], labels: Sequence[str], *, share: float
) -> dict[str, tuple[str, ...]]:
    """Clauses that may stand behind each label: those cited in at least ``share`` of its rows that cite any.

    The label of a row is the most probable of its target. A label that no row with citations has may cite any clause.

    Args:
        train: The training rows.
        vocabulary: Clauses to choose from.
        labels: The task's labels.
        share: Least share; a teacher slips now and then, and one slip must not let a clause stand behind a label.
    """
    cited = train.filter(pl.col("clauses").is_not_null()).select(
        "clauses", label=pl.col("target").list.arg_max().cast(pl.Int64)
    )
    behind = {}
    for number, label in enumerate(labels):
        rows = cited.filter(pl.col("label") == number)["clauses"]
        counts = Counter(clause for clauses in rows for clause in set(clauses))
        found = tuple(clause for clause in vocabulary if counts[clause] >= share * len(rows)) if len(rows) else ()
        behind[label] = found or tuple(vocabulary)
    return behind


def clause_columns(table: pl.DataFrame, vocabulary: Sequence[str]) -> dict[str, np.ndarray]:
    """``cited`` ``[N, C]`` of 0 and 1, and ``cited_known`` ``[N]``: 0 for a row without citations; both float32."""
    place = {clause: number for number, clause in enumerate(vocabulary)}
    cited = np.zeros((table.height, len(vocabulary)), dtype=np.float32)
    for row, clauses in enumerate(table["clauses"].to_list()):
        for clause in clauses or ():
            if clause in place:
                cited[row, place[clause]] = 1.0
    # A row that cites only clauses too rare to be learned is no row to which none applies.
    return {"cited": cited, "cited_known": (cited.sum(axis=1) > 0).astype(np.float32)}


def _fit(table: pl.DataFrame, task: Task) -> tuple[pl.DataFrame, TraceCounts]:
    known = None if task.guideline is None else set(task.guideline.by_id)
    traces, citations = [], []
    dropped: Counter[str] = Counter()
    for row in table.select(*task.inputs, "target", "trace", "clauses").iter_rows(named=True):
        problem = _problem(row, task)
        dropped.update([problem] if problem else [])
        traces.append(None if problem else row["trace"])
        clauses = [clause for clause in row["clauses"] or () if known is None or clause in known]
        citations.append(clauses if clauses and problem != "contradicts_label" else None)
    fitted = table.with_columns(
        pl.Series("trace", traces, dtype=pl.String), pl.Series("clauses", citations, dtype=pl.List(pl.String))
    )
    with_trace, with_clauses = (table.height - fitted[name].null_count() for name in ("trace", "clauses"))
    return fitted, TraceCounts(table.height, with_trace, with_clauses, dict(sorted(dropped.items())))


def _problem(row: Mapping[str, object], task: Task) -> str | None:
    """The first reason not to learn from a row's trace; None where there is no trace, too."""
    trace, target = row["trace"], row["target"]
    if not isinstance(trace, str):
        return None
    assert isinstance(target, list)
    label = task.labels[max(range(len(target)), key=target.__getitem__)]
    values = {name: str(row[name] or "") for name in task.inputs}
    found = trace_problems(trace, label=label, task=task, values=values)
    return next((problem for problem in _TEACHES_NOTHING if problem in found), None)


def _natural(clause: str) -> tuple[str, int]:
    """So that E2 comes before E10."""
    digits = re.search(r"\d*$", clause)
    assert digits is not None  # the empty end of any text matches
    return clause[: digits.start()], int(digits[0] or 0)
