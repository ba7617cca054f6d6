"""What training does about traces before the first step and after the last."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.student import Student
from distill.students.traces.clauses import FEWEST_ROWS_TO_CHOOSE, TracesInfo, choose_threshold, measured
from distill.students.traces.config import TracesConfig
from distill.students.traces.rows import TraceCounts, clause_columns, clause_labels, clause_vocabulary
from distill.students.training_set import TrainingSet

_LEAST_SHARE_BEHIND = 0.01
"""A clause cited in a smaller share of a label's rows is a slip. In 1,920 recorded answers of one teacher, clauses that
speak for another label reach 0.9%, and the rarest that speaks for the label stands at 1.4%."""


def traces_info(config: TracesConfig, training: TrainingSet, *, counts: TraceCounts, task: Task) -> TracesInfo:
    """The clauses that the head will learn, and what each may stand behind.

    Args:
        config: What is learned.
        training: From :func:`distill.students.traces.rows.fit_traces`.
        counts: Likewise.
        task: The labels.

    Raises:
        StudentError: No row has anything of what is to be learned.
    """
    learned = config.clauses > 0
    clauses = clause_vocabulary(training.train, fewest=config.fewest_citations) if learned else ()
    if not clauses and not (config.draw_to != "none" and counts.traces):
        raise StudentError(
            f"traces: of {counts.rows} training rows {counts.citations} cite clauses, none often enough to be learned "
            f"({config.fewest_citations} rows), and {counts.traces} have a trace with draw_to: {config.draw_to}; learn "
            "from a teacher that gives traces (traces: true) under a guideline, or leave traces out"
        )
    behind = clause_labels(training.train, clauses, task.labels, share=_LEAST_SHARE_BEHIND)
    return TracesInfo(counts=counts, clauses=clauses, behind=behind if clauses else None)


def with_threshold(student: Student, training: TrainingSet) -> TracesInfo | None:
    """The student's traces, their threshold chosen and measured on the validation rows where enough cite clauses."""
    info = student.info.traces
    if info is None or not info.clauses:
        return info
    columns = clause_columns(training.validation, info.clauses)
    known = columns["cited_known"] > 0
    if known.sum() < FEWEST_ROWS_TO_CHOOSE:
        return info
    rows, cited = training.validation.filter(pl.Series(known)), columns["cited"][known]
    labels = student.predict(rows)["label"].to_list()
    scores = student.clause_scores(rows)
    threshold = choose_threshold(scores, cited, info.may_stand(labels))
    chosen = replace(info, threshold=threshold, threshold_source="validation")
    return replace(chosen, quality=measured(scores, cited, labels, chosen))
