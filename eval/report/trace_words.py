"""What is said of the reasons that teachers gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill.eval.wording import count, plural

if TYPE_CHECKING:
    from distill.eval.report.labeling_facts import TeacherFacts

_SAID = {
    "empty": "empty",
    "too_short": "too short to be a reason",
    "too_long": "too long and cut",
    "contradicts_label": "contradict their label",
    "unknown_clause": "cite a clause that the guideline does not have",
    "repeats_listing": "repeat the listing",
    "label_first": "state the label before any reason",
    "answer_in_view": "written after the label",
    "given": "written for a label that was given",
}


def traces_said(teachers: Sequence[TeacherFacts]) -> list[str]:
    """How many reasons each teacher gave and what is wrong with them; nothing where none was checked."""
    lines = []
    for teacher in teachers:
        if not teacher.traces_checked:
            continue
        said = f"{teacher.name} gave a reason in words with {100 * teacher.tracing:.0f}% of its labels"
        if explained := teacher.outcomes.get("explained", 0):
            said = (
                f"{teacher.name} was shown the label of {plural(explained, 'row')} and explained it, which is no vote"
            )
        if teacher.trace_problems:
            found = ", ".join(f"{count(n)} {_SAID.get(name, name)}" for name, n in teacher.trace_problems.items())
            said += f"; of {count(teacher.traces)} reasons, {found}"
        else:
            said += "; no check found anything wrong with them"
        lines.append(said + ".")
    return lines
