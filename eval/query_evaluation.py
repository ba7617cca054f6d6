"""How good predictors are at each part of a query task: against gold, against teachers, and without any label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import FEW_GROUPS, Estimate, Resamples, Size, estimate, undefined
from distill.eval.ladder import Kind
from distill.eval.query_answers import PartAnswers, answer_text, same_answer
from distill.eval.query_metrics import PairedClaim, Tally, estimates, paired_claim, ratio
from distill.eval.query_tallies import Measured
from distill.eval.scored import TruthSource
from distill.labeling.task import Task

JUDGED = "judged products"
"""Truth of expansions that are measured by what they retrieve."""


class Check(Frozen):
    """How often a predictor's answers pass a check that needs no label."""

    name: str = Field(description="what has to hold")
    passed: Estimate = Field(description="share of the answers that the check speaks of")


class SliceFigure(Frozen):
    """The part's metric on the rows of one value of a column."""

    column: str
    value: str
    found: Estimate


class PartEvaluation(Frozen):
    """One predictor on one part."""

    name: str
    kind: Kind
    rows: int = Field(description="measured rows that it answered")
    unanswered: int = Field(description="measured rows that it left without an answer; they are in no number")
    metrics: dict[str, Estimate]
    agreement: Estimate | None = Field(
        description="how far it says the same as the merged labels on the test rows: no accuracy; None without them"
    )
    checks: list[Check] = Field(default_factory=list, description="without labels")
    slices: list[SliceFigure] = Field(default_factory=list, description="the part's metric by eval.slices")


class TeacherClaim(Frozen):
    """Is a student at least as good as a teacher? One-sided, on the rows that both answered."""

    student: str
    teacher: str
    claim: PairedClaim


class Mistake(Frozen):
    """A row that the predictor shown got wrong, beside what the others say."""

    row_id: str
    query: str
    truth: str
    said: str
    confidence: float | None
    others: dict[str, str]
    note: str = ""


class PartMeasurement(Frozen):
    """Everybody on one part."""

    part: str = Field(description="name of the part; the task's type where it has none")
    type: str = Field(description="type of the part")
    metric: str = Field(description="what predictors are compared by")
    truth_source: TruthSource
    judged: bool = Field(False, description="measured by what expansions retrieve of judged products")
    rows: int = Field(description="test rows that can be measured")
    groups: int
    evaluations: list[PartEvaluation]
    claims: list[TeacherClaim] = Field(default_factory=list)
    check_claims: list[TeacherClaim] = Field(
        default_factory=list,
        description="the same by each check that needs no label, whose name is the metric: how often answers pass it",
    )
    shown: str | None = Field(None, description="whose mistakes are listed: the best student, else the merged labels")
    mistakes: list[Mistake] = Field(default_factory=list)
    wrong: int = Field(0, description="rows that the one shown got wrong, of which the most telling are listed")


class QueryMeasurement(Frozen):
    """What ``evaluations.json`` holds of a task whose answers are no single label."""

    parts: list[PartMeasurement]


@dataclass(frozen=True)
class Predictor:
    """Who is measured on a part.

    Attributes:
        name: As the recipe names it.
        kind: What it is.
        answers: To this part.
        passes: Of each check that needs no label, how far each answer passes it, from 0 to 1, by row id; rows that the
            check says nothing of are not in it.
    """

    name: str
    kind: Kind
    answers: PartAnswers
    passes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def is_student(self) -> bool:
        """Whether it was trained."""
        return self.kind not in ("teacher", "labels", "function")


@dataclass(frozen=True)
class Settings:
    """How numbers are made: resamples, level, seed; groups by row id, and values of the columns to slice by."""

    config: EvalConfig
    seed: int
    groups: Mapping[str, str]
    slices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of(self, row_ids: Sequence[str]) -> list[str]:
        """Groups of some rows."""
        return [self.groups[row_id] for row_id in row_ids]


def measure_part(
    measured: Measured,
    predictors: Sequence[Predictor],
    *,
    truth_source: TruthSource,
    merged: PartAnswers | None,
    settings: Settings,
    mistakes: int = 12,
    teachers: Sequence[Predictor] = (),
) -> PartMeasurement:
    """Measures everybody on one part.

    Args:
        measured: The part, its truth and what it is searched in.
        predictors: In the order to show them; students first.
        truth_source: Whose answers the truth is.
        merged: Merged answers, for agreement; None where there are none.
        settings: Of the intervals.
        mistakes: How many rows to list, at most.
        teachers: Those whom students are held against by checks that need no label; they may be among the predictors.
    """
    row_ids = measured.row_ids
    single = measured.single
    found = [
        _evaluate(one, measured, merged=None if one.kind == "labels" else merged, settings=settings)
        for one in predictors
    ]
    shown = _shown(predictors, found, measured.metric)
    wrong = [] if shown is None else _mistakes(shown, predictors, measured)
    return PartMeasurement(
        part=part_title(single),
        type=str(single.type or single.kind),
        metric=measured.metric,
        truth_source=truth_source,
        judged=measured.metric == "ndcg",
        rows=len(row_ids),
        groups=len(set(settings.of(row_ids))),
        evaluations=found,
        claims=_claims(predictors, measured, settings),
        check_claims=_check_claims([one for one in predictors if one.is_student], teachers, settings),
        shown=shown.name if shown else None,
        mistakes=wrong[:mistakes],
        wrong=len(wrong),
    )


def paired_gain(one: Predictor, other: Predictor, measured: Measured, settings: Settings) -> Estimate:
    """How much better one is than another by the part's metric, on the rows that both answered, with its interval."""
    left, right, row_ids = _both(one, other, measured)
    if not row_ids:
        return undefined("no row that both answered", level=settings.config.level)
    return _paired_difference(left, right, measured.metric, row_ids, settings)


def mean_of(values: Mapping[str, float], settings: Settings) -> Estimate:
    """The mean of values by row id that may be below 0, such as differences, with its interval by group."""
    if not values:
        return undefined("no rows", level=settings.config.level)
    drawn = Resamples.of(
        np.array(settings.of(list(values)), dtype=object), count=settings.config.bootstrap, seed=settings.seed
    )
    terms = np.array([[value, 1.0] for value in values.values()])
    score = ratio(0, 1)
    size = Size(len(values), drawn.groups)
    return estimate(float(score(terms.sum(axis=0))), score(drawn.sums(terms)), size, level=settings.config.level)


def share_of(passed: Mapping[str, float], settings: Settings) -> Estimate:
    """The mean of values by row id, with its interval by group."""
    row_ids = list(passed)
    terms = np.array([[passed[row_id], 1.0] for row_id in row_ids]).reshape(-1, 2)
    return _estimates(Tally(terms, {"share": ratio(0, 1)}), row_ids, settings)["share"]


def _evaluate(one: Predictor, measured: Measured, *, merged: PartAnswers | None, settings: Settings) -> PartEvaluation:
    said = one.answers.values
    asked = measured.row_ids
    answered = [row_id for row_id in asked if row_id in said]
    metrics = _estimates(measured.tally(said, answered), answered, settings) if answered else {}
    agreement = None
    if merged is not None:
        common = [row_id for row_id in measured.queries if row_id in said and row_id in merged.values]
        same = {row_id: same_answer(measured.single, said[row_id], merged.values[row_id]) for row_id in common}
        agreement = share_of(same, settings)
    return PartEvaluation(
        name=one.name,
        kind=one.kind,
        rows=len(answered),
        unanswered=len(asked) - len(answered),
        metrics=metrics,
        agreement=agreement,
        checks=[Check(name=name, passed=share_of(passed, settings)) for name, passed in one.passes.items() if passed],
        slices=_slices(one, measured, answered, settings),
    )


def _slices(one: Predictor, measured: Measured, answered: Sequence[str], settings: Settings) -> list[SliceFigure]:
    """The part's metric by value of each slice column, the most frequent first."""
    found = []
    for column, values in settings.slices.items():
        sizes = Counter(values.get(row_id, "") for row_id in answered)
        for value, _ in sizes.most_common(settings.config.slice_values):
            rows = [row_id for row_id in answered if values.get(row_id, "") == value]
            figure = _estimates(measured.tally(one.answers.values, rows), rows, settings)[measured.metric]
            found.append(SliceFigure(column=column, value=value, found=figure))
    return found


def _estimates(tally: Tally, row_ids: Sequence[str], settings: Settings) -> dict[str, Estimate]:
    config = settings.config
    groups = settings.of(row_ids)
    if not row_ids:
        return {name: estimate(float("nan"), np.array([]), Size(0, 0), level=config.level) for name in tally.scores}
    return estimates(tally, groups, resamples=config.bootstrap, seed=settings.seed, level=config.level)


def _claims(predictors: Sequence[Predictor], measured: Measured, settings: Settings) -> list[TeacherClaim]:
    """Each student against each teacher and the merged labels. Functions are no judges, and answer few rows each."""
    teachers = [one for one in predictors if one.kind in ("teacher", "labels")]
    found = []
    for student in (one for one in predictors if one.is_student):
        for teacher in teachers:
            left, right, row_ids = _both(student, teacher, measured)
            if not row_ids:
                continue
            claim = paired_claim(
                left,
                right,
                settings.of(row_ids),
                metric=measured.metric,
                level=settings.config.level,
                resamples=settings.config.bootstrap,
            )
            found.append(TeacherClaim(student=student.name, teacher=teacher.name, claim=claim))
    return found


def _paired_difference(left: Tally, right: Tally, metric: str, row_ids: Sequence[str], settings: Settings) -> Estimate:
    score = left.scores[metric]
    drawn = Resamples.of(
        np.array(settings.of(row_ids), dtype=object), count=settings.config.bootstrap, seed=settings.seed
    )
    value = float(score(left.terms.sum(axis=0)) - score(right.terms.sum(axis=0)))
    draws = score(drawn.sums(left.terms)) - score(drawn.sums(right.terms))
    return estimate(value, draws, Size(len(row_ids), drawn.groups), level=settings.config.level)


def _check_claims(
    students: Sequence[Predictor], teachers: Sequence[Predictor], settings: Settings
) -> list[TeacherClaim]:
    """Each student against each teacher by how often their answers pass each check, on rows that both answered.

    Not where a check speaks of few queries of either: where all of three pass, resampling knows no doubt.
    """
    found = []
    for student, teacher in ((one, other) for one in students for other in teachers):
        for name in student.passes:
            if (both := _passing(student, teacher, name)) is None:
                continue
            left, right, row_ids = both
            groups = np.array(settings.of(row_ids), dtype=object)
            if any(len(set(groups[side.terms[:, 1] > 0])) < FEW_GROUPS for side in (left, right)):
                continue
            claim = paired_claim(
                left,
                right,
                settings.of(row_ids),
                metric=name,
                level=settings.config.level,
                resamples=settings.config.bootstrap,
            )
            found.append(TeacherClaim(student=student.name, teacher=teacher.name, claim=claim))
    return found


def check_gains(one: Predictor, other: Predictor, settings: Settings) -> dict[str, Estimate]:
    """By check, how much more often the answers of one pass it than those of another, paired by row."""
    found = {}
    for name in one.passes:
        if (both := _passing(one, other, name)) is not None:
            left, right, row_ids = both
            found[name] = _paired_difference(left, right, name, row_ids, settings)
    return found


def _passing(one: Predictor, other: Predictor, name: str) -> tuple[Tally, Tally, list[str]] | None:
    """How often the answers of two pass a check, on rows that both answered; None where it says nothing of one.

    It may speak of other rows for each of them (the queries that each changed): what is compared is the share of each.
    """
    sides = (one.passes.get(name, {}), other.passes.get(name, {}))
    both = [row for row in one.answers.values if row in other.answers.values]
    row_ids = [row for row in both if any(row in side for side in sides)]
    left, right = (
        Tally(
            np.array([[side.get(row, 0.0), float(row in side)] for row in row_ids]).reshape(-1, 2),
            {name: ratio(0, 1)},
        )
        for side in sides
    )
    return (left, right, row_ids) if left.terms[:, 1].any() and right.terms[:, 1].any() else None


def _both(one: Predictor, other: Predictor, measured: Measured) -> tuple[Tally, Tally, list[str]]:
    """Tallies of two on the rows that both answered, with the terms that their metric needs."""
    row_ids = [row for row in measured.row_ids if row in one.answers.values and row in other.answers.values]
    tallies = [measured.tally(side.answers.values, row_ids) for side in (one, other)]
    # Macro F1 has terms for every label that either names; what comes before them is the same for both.
    width = min(tally.terms.shape[1] for tally in tallies)
    left, right = (
        Tally(tally.terms[:, :width], {measured.metric: tally.scores[measured.metric]}, signed=tally.signed)
        for tally in tallies
    )
    return left, right, row_ids


def _shown(predictors: Sequence[Predictor], found: Sequence[PartEvaluation], metric: str) -> Predictor | None:
    """The best student; without one the merged labels; else the first who answers."""
    by_value = {one.name: (one.metrics[metric].value if metric in one.metrics else None) for one in found}
    students = [one for one in predictors if one.is_student and by_value[one.name] is not None]
    if students:
        return max(students, key=lambda one: by_value[one.name] or 0.0)
    labels = [one for one in predictors if one.kind == "labels"]
    return next(iter([*labels, *(one for one in predictors if one.kind == "teacher")]), None)


def _mistakes(shown: Predictor, predictors: Sequence[Predictor], measured: Measured) -> list[Mistake]:
    """Rows that it got wrong: the surest first; of expansions those that lost most, with what they lost."""
    said, single = shown.answers.values, measured.single
    ranked: list[tuple[float, str, str]] = []
    for row_id in measured.row_ids:
        if row_id not in said:
            continue
        if measured.metric == "ndcg":
            lost, note = _lost(measured, row_id, said[row_id])
            if lost > 0:
                ranked.append((lost, row_id, note))
        elif same_answer(single, said[row_id], measured.truth.values[row_id]) < 1:
            ranked.append((shown.answers.confidence.get(row_id, 0.0), row_id, ""))
    ranked.sort(key=lambda one: -one[0])
    return [
        Mistake(
            row_id=row_id,
            query=measured.queries[row_id],
            truth=answer_text(measured.truth.values.get(row_id)),
            said=answer_text(said[row_id]),
            confidence=shown.answers.confidence.get(row_id),
            others={
                one.name: answer_text(one.answers.values[row_id])
                for one in predictors
                if one is not shown and row_id in one.answers.values
            },
            note=note,
        )
        for _, row_id, note in ranked
    ]


def _lost(measured: Measured, row_id: str, expansions: Any) -> tuple[float, str]:
    terms = measured.tally({row_id: expansions}, [row_id])
    sums = terms.terms.sum(axis=0)
    change, after = (float(terms.scores[name](sums)) for name in ("ndcg_change", "ndcg"))
    return -change, f"nDCG {after - change:.2f} to {after:.2f}"


def part_title(single: Task) -> str:
    """What a part is called; the task's type where it has no parts."""
    return single.part or str(single.type or single.kind)


def queries_of(rows: pl.DataFrame, single: Task, *, split: str = "test") -> dict[str, str]:
    """Text by row id, of the rows of a split."""
    own = rows.filter(pl.col("split") == split)
    return {str(row_id): text or "" for row_id, text in own.select("row_id", single.source).iter_rows()}
