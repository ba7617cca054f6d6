"""Whether a student's section fits a task whose answers are no single label."""

from __future__ import annotations

from collections.abc import Iterator

from distill.labeling.task import Task, TaskConfig
from distill.students.config import EncoderConfig, StudentConfig
from distill.students.queries.asked_task import part_name

Problem = tuple[str, str]

_ONE_LABEL = {
    "match_people": "maps distributions over one label",
    "prune": "looks for labels that others contradict",
    "abstain": "is of one label; predictions of these tasks carry a calibrated confidence instead",
    "traces": "learns the reasons of one label",
    "label_smoothing": "spreads a distribution over one label",
    "teacher_logprobs": "is of the words around one label",
}


def query_problems(student: StudentConfig, task: TaskConfig | Task) -> Iterator[Problem]:
    """What does not fit, as the key of the section that is wrong and why; nothing where all does.

    Args:
        student: The section.
        task: One whose answers are no single label.
    """
    if student.type == "dcn":
        yield "type", "a student of type dcn learns one label a row, and these answers are none; use encoder or causal"
        return
    for key, why in _ONE_LABEL.items():
        if getattr(student, key, None) not in (None, False, 0.0, "none"):
            yield key, f"{why}, and these answers are none; take it out"
    if student.head != "nominal":
        yield "head", "ordered is of grades, and these answers are none; take it out"
    if student.loss.type != "soft_ce" or student.loss.small_loss is not None:
        yield "loss", f"got {student.loss.type}; parts have losses of their own, at soft targets; take it out"
    if student.human_share != 1.0:
        yield "human_share", "mixes distributions over one label, and these answers are none; take it out"
    if not isinstance(student, EncoderConfig):
        return
    parts = _parts(task)
    if "text" in parts:
        yield "type", "an encoder writes no open texts; use causal, or a task of type spelling or expansion"
    for name in student.weights or {}:
        if name not in parts:
            yield "weights", f"names {name!r}, which is no part of the task; parts: {', '.join(parts)}"
    if student.weights and not any(student.weights.get(name, 1.0) > 0 for name in parts):
        yield "weights", "leave nothing to learn; give a part more than 0"
    for key in ("corrector", "over_correction"):
        if getattr(student, key) is not None and "spelling" not in parts:
            yield key, f"is of spelling, which is no part of the task; parts: {', '.join(parts)}"
    made = student.synthetic
    spans = bool({"brand", "spans"} & set(parts))
    if made is not None and "spelling" not in parts and not (spans and made.names):
        yield "synthetic", f"makes no rows: typos are of spelling, names of brand and spans; parts: {', '.join(parts)}"
    if student.spans is not None and not spans:
        yield "spans", f"is of spans, which are no part of the task; parts: {', '.join(parts)}"


def label_task_problems(student: StudentConfig) -> Iterator[Problem]:
    """Keys that say nothing to a task of one label a row."""
    for key in ("weights", "synthetic", "corrector", "over_correction", "spans", "answer_tokens"):
        if getattr(student, key, None) is not None:
            yield key, "is of query tasks (spelling, brand, category, expansion, spans); take it out"


def _parts(task: TaskConfig | Task) -> tuple[str, ...]:
    """Names of the parts; ``text`` for a text that is neither spelling nor a list."""
    if isinstance(task, TaskConfig):
        if task.type == "query_understanding":
            return tuple(task.parts)
        return ("texts",) if task.type == "text" and task.several else (task.type,)
    return tuple(part_name(single) for single in task.singles)
