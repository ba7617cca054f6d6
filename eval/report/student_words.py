"""What is said of how students were made and whether their probabilities can be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from distill.eval.report.student_facts import (
    AbstentionFacts,
    AnsweredFacts,
    CalibrationFacts,
    StudentFacts,
    TraceLearning,
)
from distill.eval.wording import count, flatten, plural, seconds, share

_MADE_COLUMNS = ("student", "learned from", "loss", "left out as mislabeled", "reasons learned", "trained")
_SURE_COLUMNS = (
    "student",
    "map",
    "fitted on",
    "calibration error before",
    "after",
    "test rows answered",
    "wrong among them",
)
_NOTHING = "–"
_FITTED_ON = {
    "audit gold": "gold",
    "validation": "labels of the kind it learned from",
}


class Table(NamedTuple):
    """Columns, and a line a student."""

    columns: Sequence[str]
    lines: Sequence[Sequence[str]]

    @classmethod
    def of(cls, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
        """A table without the columns in which no line says anything."""
        told = [place for place in range(len(columns)) if any(line[place] != _NOTHING for line in lines)]
        return cls([columns[place] for place in told], [[line[place] for place in told] for line in lines])


@dataclass(frozen=True)
class StudentWords:
    """Two tables, a line a student, and what they say in words."""

    made_lede: str
    made: Table
    sure: Table
    sure_lines: list[str]
    settings: list[list[str]]


def students_said(students: Mapping[str, StudentFacts], answered: Mapping[str, AnsweredFacts]) -> StudentWords | None:
    """The words; None where nothing is known of any student."""
    if not students:
        return None
    made = [
        (
            name,
            ", ".join(f"{source}: {plural(rows, 'row')}" for source, rows in found.learned.items()) or _NOTHING,
            found.loss or _NOTHING,
            count(found.pruned) if found.pruned is not None else _NOTHING,
            traces_learned(found.traces) if found.traces else _NOTHING,
            seconds(found.train_s) + (f", resumed at step {count(found.resumed_at)}" if found.resumed_at else ""),
        )
        for name, found in students.items()
    ]
    sure = [(name, *_sure(found.calibration, answered.get(name))) for name, found in students.items()]
    lines = [_promise(name, found.abstention) for name, found in students.items() if found.abstention is not None]
    return StudentWords(
        _lede(students), Table.of(_MADE_COLUMNS, made), Table.of(_SURE_COLUMNS, sure), lines, _settings(students)
    )


def traces_learned(found: TraceLearning) -> str:
    """What of the teachers' reasons went into a student, and what was left out and why."""
    said = count(found.learned)
    if found.clauses:
        said += f"; {plural(found.clauses, 'clause')} from {plural(found.citations, 'row')}"
        said += f" (F1 {found.f1:.2f} on validation rows)" if found.f1 is not None else ""
    if found.left_out:
        said += "; left out: " + ", ".join(f"{count(n)} {name.replace('_', ' ')}" for name, n in found.left_out.items())
    return said


def _settings(students: Mapping[str, StudentFacts]) -> list[list[str]]:
    """A line a setting that any student has: its name, and its value for each."""
    told = [dict(flatten(found.settings)) for found in students.values()]
    names = dict.fromkeys(name for settings in told for name in settings)
    lines = [[name, *(settings.get(name, _NOTHING) for settings in told)] for name in names]
    return [line for line in lines if any(value != _NOTHING for value in line[1:])]


def _lede(students: Mapping[str, StudentFacts]) -> str:
    said = "What each student learned from, with which loss, and how long that took."
    pruned = sum(found.pruned or 0 for found in students.values())
    if pruned:
        said += f" {plural(pruned, 'training row')} {'was' if pruned == 1 else 'were'} left out as probably mislabeled."
    resumed = [name for name, found in students.items() if found.resumed_at]
    if resumed:
        said += f" The training of {', '.join(resumed)} was interrupted and went on from a checkpoint."
    return said


def _sure(found: CalibrationFacts, answered: AnsweredFacts | None) -> tuple[str, ...]:
    fitted = _NOTHING
    if found.source != "none":
        fitted = f"{plural(found.rows, 'row')} in {plural(found.groups, 'group')}, {_FITTED_ON[found.source]}"
    return (
        found.method if found.source != "none" else "none: too few held-out rows",
        fitted,
        _points(found.before),
        _points(found.after),
        share(answered.share) if answered else "all",
        share(answered.wrong) if answered else _NOTHING,
    )


def _points(error: float | None) -> str:
    return _NOTHING if error is None else f"{100 * error:.1f}%"


def _promise(name: str, found: AbstentionFacts) -> str:
    wanted = f"at most {100 * found.risk:g}% wrong among the rows answered, with {100 * found.confidence:g}% confidence"
    on = f"{plural(found.rows, 'held-out row')} in {plural(found.groups, 'group')}"
    if found.threshold is None:
        needed = f" About {count(found.rows_needed)} such rows would probably be enough." if found.rows_needed else ""
        return f"{name} answers no row: {wanted}, could not be shown on {on}.{needed}"
    return f"{name} answers the rows that it is sure enough of: {wanted}, as shown on {on}."
