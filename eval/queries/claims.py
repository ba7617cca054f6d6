"""Two predictors beside each other on one part of a query task: paired by row, with intervals and one-sided claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import numpy as np

from distill.eval.config import EvalConfig
from distill.eval.intervals import FEW_GROUPS, Estimate, Resamples, Size, estimate, undefined
from distill.eval.ladder import Kind
from distill.eval.queries.answers import PartAnswers
from distill.eval.queries.facts import TeacherClaim
from distill.eval.queries.metrics import Tally, paired_claim, ratio
from distill.eval.queries.tallies import Measured


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


class _Pair(NamedTuple):
    """Tallies of two predictors on the rows that are compared."""

    left: Tally
    right: Tally
    row_ids: list[str]

    def difference(self, metric: str, settings: Settings) -> Estimate:
        """How much higher the left one is by a metric, with its interval over groups."""
        score = self.left.scores[metric]
        drawn = Resamples.of(
            np.array(settings.of(self.row_ids), dtype=object), count=settings.config.bootstrap, seed=settings.seed
        )
        value = float(score(self.left.terms.sum(axis=0)) - score(self.right.terms.sum(axis=0)))
        draws = score(drawn.sums(self.left.terms)) - score(drawn.sums(self.right.terms))
        return estimate(value, draws, Size(len(self.row_ids), drawn.groups), level=settings.config.level)

    def claim(self, student: Predictor, teacher: Predictor, metric: str, settings: Settings) -> TeacherClaim:
        """Whether the left one, a student, is at least as good as the right one, a teacher."""
        claim = paired_claim(
            self.left,
            self.right,
            settings.of(self.row_ids),
            metric=metric,
            level=settings.config.level,
            resamples=settings.config.bootstrap,
        )
        return TeacherClaim(student=student.name, teacher=teacher.name, claim=claim)


def paired_gain(one: Predictor, other: Predictor, measured: Measured, settings: Settings) -> Estimate:
    """How much better one is than another by the part's metric, on the rows that both answered, with its interval."""
    pair = _both(one, other, measured)
    if not pair.row_ids:
        return undefined("no row that both answered", level=settings.config.level)
    return pair.difference(measured.metric, settings)


def check_gains(one: Predictor, other: Predictor, settings: Settings) -> dict[str, Estimate]:
    """By check, how much more often the answers of one pass it than those of another, paired by row."""
    pairs = {name: _passing(one, other, name) for name in one.passes}
    return {name: pair.difference(name, settings) for name, pair in pairs.items() if pair is not None}


def teacher_claims(predictors: Sequence[Predictor], measured: Measured, settings: Settings) -> list[TeacherClaim]:
    """Each student against each teacher and the merged labels. Functions are no judges, and answer few rows each."""
    teachers = [one for one in predictors if one.kind in ("teacher", "labels")]
    found = []
    for student, teacher in product((one for one in predictors if one.is_student), teachers):
        pair = _both(student, teacher, measured)
        if pair.row_ids:
            found.append(pair.claim(student, teacher, measured.metric, settings))
    return found


def check_claims(
    students: Sequence[Predictor], teachers: Sequence[Predictor], settings: Settings
) -> list[TeacherClaim]:
    """Each student against each teacher by how often their answers pass each check, on rows that both answered.

    Not where a check speaks of few queries of either: where all of three pass, resampling knows no doubt.
    """
    found = []
    for student, teacher in product(students, teachers):
        for name in student.passes:
            if (pair := _passing(student, teacher, name)) is None:
                continue
            groups = np.array(settings.of(pair.row_ids), dtype=object)
            if all(len(set(groups[side.terms[:, 1] > 0])) >= FEW_GROUPS for side in (pair.left, pair.right)):
                found.append(pair.claim(student, teacher, name, settings))
    return found


def _passing(one: Predictor, other: Predictor, name: str) -> _Pair | None:
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
    return _Pair(left, right, row_ids) if left.terms[:, 1].any() and right.terms[:, 1].any() else None


def _both(one: Predictor, other: Predictor, measured: Measured) -> _Pair:
    """Tallies of two on the rows that both answered, with the terms that their metric needs."""
    row_ids = [row for row in measured.row_ids if row in one.answers.values and row in other.answers.values]
    tallies = [measured.tally(side.answers.values, row_ids) for side in (one, other)]
    # Macro F1 has terms for every label that either names; what comes before them is the same for both.
    width = min(tally.terms.shape[1] for tally in tallies)
    left, right = (
        Tally(tally.terms[:, :width], {measured.metric: tally.scores[measured.metric]}, signed=tally.signed)
        for tally in tallies
    )
    return _Pair(left, right, row_ids)
