"""What is said of a run's teachers and students where few or no people labeled its test rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import polars as pl

from distill.eval.few_labels import FewLabels, measure_few_labels, partly_labeled
from distill.eval.label_free import LabelFreeFacts, rank_teachers
from distill.eval.scored import TruthSource
from distill.eval.student_estimate import HeldOutRows, StudentToEstimate, estimate_student
from distill.run_folder import RunFolder, write_json
from distill.session import Session
from distill.students.config import LABELS, StudentConfig
from distill.students.student import load_student
from distill.students.student_info import StudentInfo
from distill.teachers.config import functions_among

AUDIT_GOLD = "audit gold"
"""Of a student's calibration: that its probabilities were set right on gold of split ``audit``."""


def estimate_without_labels(
    session: Session, rows: pl.DataFrame, *, labels: pl.DataFrame | None, votes: pl.DataFrame | None
) -> LabelFreeFacts:
    """Ranks the teachers and estimates the students; writes ``label_free.json``.

    Args:
        session: The run, its students trained.
        rows: The rows table, with gold by people or none.
        labels: The merged labels; None without teachers.
        votes: The votes; None without teachers.
    """
    recipe, folder, task = session.recipe, session.folder, session.task
    held_out = HeldOutRows.of(rows, labels=labels, votes=votes)
    students = {}
    for name, config in recipe.students.items():
        student = StudentToEstimate(
            predictions=pl.read_parquet(folder.predictions(name)),
            predict=_asked_when_needed(folder.student(name)),
            families=_families(config, votes),
            calibrated_on_audit=StudentInfo.read(folder.student(name)).calibration.source == AUDIT_GOLD,
        )
        students[name] = estimate_student(student, held_out, task=task, config=recipe.eval, seed=recipe.seed)
        session.progress.step("estimated", done=len(students), total=len(recipe.students), note=name)
    ranked = []
    if votes is not None:
        # Functions cover a part of the rows, each another, and have a table of their own.
        functions = functions_among(votes["teacher"].unique(), recipe.teachers)
        judges = votes.filter(~pl.col("teacher").is_in(list(functions)))
        ranked = rank_teachers(judges, rows, task=task, config=recipe.eval, seed=recipe.seed)
    found = LabelFreeFacts(teachers=ranked, students=students)
    write_json(folder.label_free, found.model_dump(mode="json"))
    return found


def estimate_from_few_labels(
    session: Session,
    predictors: Mapping[str, pl.DataFrame],
    rows: pl.DataFrame,
    *,
    truth: TruthSource,
    labels: pl.DataFrame | None,
    compare: Sequence[tuple[str, str]],
) -> FewLabels | None:
    """Estimates quality on all test rows where a part has gold; writes ``few_labels.json``, or removes it.

    Args:
        session: The run.
        predictors: Predictions of whoever stands on the ladder, by name.
        rows: The rows, with gold.
        truth: Who gave it. Merged labels are no gold, and nothing is estimated from them.
        labels: The merged labels; None without teachers.
        compare: Names of two, the better first.
    """
    path = session.folder.few_labels
    if truth == "teacher" or not partly_labeled(rows):
        path.unlink(missing_ok=True)
        return None
    found = measure_few_labels(
        predictors,
        rows,
        task=session.task,
        truth_source=truth,
        labels=labels,
        compare=compare,
        config=session.recipe.eval,
    )
    write_json(path, found.model_dump(mode="json"))
    return found


def read_label_free(folder: RunFolder) -> LabelFreeFacts | None:
    """What was said without labels; None in a folder of an older version."""
    if not folder.label_free.exists():
        return None
    return LabelFreeFacts.model_validate_json(folder.label_free.read_text(encoding="utf-8"))


def read_few_labels(folder: RunFolder) -> FewLabels | None:
    """What was estimated from a few labels; None where all test rows have one, or none has."""
    if not folder.few_labels.exists():
        return None
    return FewLabels.model_validate_json(folder.few_labels.read_text(encoding="utf-8"))


def _asked_when_needed(path: Path) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Predicts with the student of a folder, which is loaded when it is first asked and not again."""
    load = cache(load_student)
    return lambda rows: load(path).predict(rows)


def _families(config: StudentConfig, votes: pl.DataFrame | None) -> set[str]:
    """Families of the teachers whose labels a student learned from."""
    if votes is None:
        return set()
    learned = votes if LABELS in config.train_on else votes.filter(pl.col("teacher").is_in(config.train_on))
    return set(learned["family"].fill_null(learned["teacher"]).unique())
