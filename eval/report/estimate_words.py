"""What is said of teachers and students where few or no people labeled: tables, and what each number is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from distill.eval.few_labels import FewLabels
from distill.eval.label_free import LabelFreeEstimate, LabelFreeFacts
from distill.eval.ladder_words import powered_cell
from distill.eval.prediction_powered import PredictionPowered
from distill.eval.report.student_words import Table
from distill.eval.scored import TruthSource
from distill.eval.wording import TRUTH_WORDS, count, interval, metric_title, number, plural, share

_NOTHING = "–"
_STUDENT_COLUMNS = (
    "student",
    "agrees with merged labels",
    "with other families",
    "expects of itself",
    "the same by threshold (ATC)",
    "confidence less share right, audit gold",
    "may be believed",
    "keeps its answer",
    "under a typo",
    "in capitals",
    "words in another order",
    "listing in another order",
)
_CHANGES = ("typo", "case", "word_order", "listing_order")
_TEACHER_COLUMNS = ("rank", "teacher", "family", "agrees with other families", "kappa", "rows", "what it means")
_FEW_COLUMNS = (
    "who",
    "what",
    "labels alone",
    "with guesses for the rest",
    "as good as so many labels",
    "guesses used",
)
_OTHER_ROWS = 0.05
"""Two teachers are not compared where their numbers of rows differ by more: rows that split the others are left out."""
_BELIEVED = {True: "as far as tested", False: "no", None: "not tested"}


@dataclass(frozen=True)
class UnlabeledWords:
    """What is told without any label by a person."""

    lede: str
    students: Table | None
    notes: list[str] = field(default_factory=list)
    ranking: str = ""
    teachers: Table | None = None


@dataclass(frozen=True)
class FewLabelsWords:
    """What a part of the test rows with labels tells of all of them."""

    lede: str
    quality: Table
    differences: Table | None
    further: Table | None


def unlabeled_said(facts: LabelFreeFacts | None, *, judges: int) -> UnlabeledWords | None:
    """The words; None where nothing was estimated.

    Args:
        facts: What was.
        judges: Teachers of the run that are asked about whole rows.
    """
    if facts is None or not facts.has_any:
        return None
    return UnlabeledWords(
        lede=_lede(facts),
        students=_students(facts.students) if facts.students else None,
        notes=_notes(facts.students),
        ranking=_ranking(facts, judges),
        teachers=_teachers(facts) if facts.teachers else None,
    )


def few_labels_said(few: FewLabels | None) -> FewLabelsWords | None:
    """The words; None where all test rows have a label, or none has."""
    if few is None:
        return None
    told = [
        (name, metric, found)
        for metric in dict.fromkeys(metric for metrics in few.quality.values() for metric in metrics)
        for name, metrics in few.quality.items()
        for found in [metrics.get(metric)]
        if found is not None
    ]
    first = [
        _few_line(name, _title(metric, few), found, metric) for name, metric, found in told if metric == few.metric
    ]
    further = [
        _few_line(name, _title(metric, few), found, metric) for name, metric, found in told if metric != few.metric
    ]
    if few.prevalence is not None:
        first.append(_few_line("all test rows", f"share of {few.positive}", few.prevalence, "accuracy"))
    compared = [
        (
            f"{one.better} over {one.than}",
            _title(one.metric, few),
            interval(one.found.labels_alone, one.metric, signed=True),
            powered_cell(one.found, one.metric, signed=True),
        )
        for one in few.differences
    ]
    columns = ("who", "what", "labels alone, points", "with guesses for the rest, points")
    return FewLabelsWords(
        lede=_few_lede(few, few.truth_source),
        quality=Table.of(_FEW_COLUMNS, first),
        differences=Table.of(columns, compared) if compared else None,
        further=Table.of(_FEW_COLUMNS, further) if further else None,
    )


def _few_line(name: str, what: str, found: PredictionPowered, metric: str) -> tuple[str, ...]:
    return (
        name,
        what,
        interval(found.labels_alone, metric),
        interval(found.estimate, metric),
        count(found.as_good_as),
        f"{100 * found.tuning:.0f}%",
    )


def _title(metric: str, few: FewLabels) -> str:
    return metric_title(metric, positive=few.positive, truth_source=few.truth_source)


def _few_lede(few: FewLabels, truth: TruthSource) -> str:
    said = f"{count(few.labeled)} of {plural(few.rows, 'test row')}, in {plural(few.groups, 'group')}, "
    said += f"have {TRUTH_WORDS[truth]}. What those say is joined with a guess for every other row, made of the "
    said += "probabilities of the student and of the merged label; how wrong the guesses are is seen on the rows with "
    said += "labels and taken out again, so that poor guesses cost width and not truth. “As good as” says how many "
    said += "labels alone would give as narrow an interval. "
    if few.drawn:
        return said + "Rows were drawn for labeling with chances that are known, and each counts by its own."
    return said + (
        "It holds where the rows with labels are a random sample of the test rows. Where somebody picked them, neither "
        "column can be trusted: have rows drawn."
    )


def _lede(facts: LabelFreeFacts) -> str:
    sides = {found.positive for found in facts.students.values() if found.positive}
    said = "Nothing here needs a label by a person, and nothing here is an accuracy: it ranks, follows and warns."
    if sides:
        said += f" Labels count as {sides.pop()} or not, as on the ladder."
    return said


def _students(students: Mapping[str, LabelFreeEstimate]) -> Table:
    return Table.of(_STUDENT_COLUMNS, [_student(name, found) for name, found in students.items()])


def _student(name: str, found: LabelFreeEstimate) -> tuple[str, ...]:
    gap = interval(found.gap, "accuracy", signed=True) if found.gap is not None else _NOTHING
    return (
        name,
        share(found.agreement) if found.agreement else _NOTHING,
        share(found.other_families) if found.other_families else _NOTHING,
        share(found.expected) if found.expected else _NOTHING,
        number(found.thresholded, "accuracy"),
        gap,
        _BELIEVED[found.believable] if found.expected else _NOTHING,
        share(found.consistency) if found.consistency else _NOTHING,
        *(number(found.changes[name].value, "accuracy") if name in found.changes else _NOTHING for name in _CHANGES),
    )


def _notes(students: Mapping[str, LabelFreeEstimate]) -> list[str]:
    """Each warning once, with whom it is about where that is not everybody."""
    about: dict[str, list[str]] = {}
    for name, found in students.items():
        for note in found.notes:
            about.setdefault(note, []).append(name)
    return [
        f"{note[0].upper()}{note[1:]}." if len(names) == len(students) else f"{', '.join(names)}: {note}."
        for note, names in about.items()
    ]


def _ranking(facts: LabelFreeFacts, judges: int) -> str:
    if facts.teachers:
        return (
            "Teachers by how often they side with the other families, beyond chance. On panels with a known truth this "
            "ranks as the truth does with a Kendall tau of 0.73, and reads 9 to 15 points above it."
        )
    if judges > 1:
        return (
            "The teachers are of one family and err together: how far they agree says nothing of who is better. A "
            "teacher of another family would tell."
        )
    return ""


def _teachers(facts: LabelFreeFacts) -> Table:
    lines = [
        (
            f"{one.rank}",
            one.teacher,
            one.family,
            share(one.agreement),
            interval(one.kappa, "kappa"),
            count(one.rows),
            _meant(place, facts),
        )
        for place, one in enumerate(facts.teachers)
    ]
    return Table.of(_TEACHER_COLUMNS, lines)


def _meant(place: int, facts: LabelFreeFacts) -> str:
    """Whether the next teacher is told apart from this one."""
    one = facts.teachers[place]
    if one.kappa.value is None:
        return one.kappa.note or _NOTHING
    below = facts.teachers[place + 1] if place + 1 < len(facts.teachers) else None
    if below is None or below.kappa.high is None or one.kappa.low is None:
        return _NOTHING
    if abs(one.rows - below.rows) > _OTHER_ROWS * max(one.rows, below.rows):
        return "judged on other rows than the next"
    return "clearly before the next" if one.kappa.low > below.kappa.high else "not told apart from the next"
