"""Whether a student's section fits the task: what one cannot see without the other."""

from __future__ import annotations

from collections.abc import Iterator

from distill.labeling.task import Task, TaskConfig
from distill.students.config import StudentConfig
from distill.students.losses.config import Emd, ForwardCorrection, Listwise, MarginMse, Rps
from distill.students.queries.task_fit import label_task_problems, query_problems


def student_problems(student: StudentConfig, task: TaskConfig | Task | None) -> Iterator[tuple[str, str]]:
    """What does not fit, as the key of the section that is wrong and why.

    Args:
        student: A student's section.
        task: The task's section, or the task; None where there is none to compare with.
    """
    loss = student.loss
    if student.head == "ordered" and student.type == "causal":
        yield "head", "a causal student answers with a label's own token; set head: nominal, and a loss such as rps"
    if isinstance(loss, ForwardCorrection):
        for source in loss.matrices or {}:
            if source not in student.train_on:
                yield (
                    "loss",
                    f"matrices names {source!r}, which is not in train_on {list(student.train_on)}; correct it",
                )
    if task is None:
        return
    if not task.closed:
        yield from query_problems(student, task)
        return
    yield from label_task_problems(student)
    relevance = isinstance(task, TaskConfig) and task.type == "relevance"
    ordered = relevance if task.ordered is None else task.ordered
    if isinstance(loss, Rps | Emd) and not ordered:
        yield "loss", f"{loss.type} measures how far grades are apart, and the labels are no grades; set task.ordered"
    if isinstance(loss, MarginMse | Listwise) and not (ordered or relevance or task.positive):
        yield "loss", f"{loss.type} compares grades, and the labels are none; set task.ordered or task.positive"
    if isinstance(loss, ForwardCorrection):
        for source, matrix in (loss.matrices or {}).items():
            if len(matrix) != len(task.labels):
                yield (
                    "loss",
                    f"matrices.{source} has {len(matrix)} lines for {len(task.labels)} labels; give one a label",
                )
    if student.head == "ordered" and not ordered:
        yield "head", "ordered has one score for all grades, and the labels are no grades; set task.ordered: true"
