"""Sums that the metrics of the query tasks are made of, their intervals by query, and claims about two students.

Every metric of :mod:`distill.eval.queries.spelling_metrics`, ``brand_metrics``, ``category_metrics`` and
``expansion_metrics`` is a function of sums over queries: a share ``a / b``, or an F of three counts. So a
:class:`Tally` of per-query terms, resampled by group, gives each metric its interval, and two of the same queries their
paired difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, Size, estimate
from distill.eval.metrics import Floats
from distill.labeling.errors import DataError

RESAMPLES = 2000
Score = Callable[[Floats], Floats]
"""A metric of sums ``[..., k]``, giving ``[...]``; NaN where it is undefined."""


@dataclass(frozen=True)
class Tally:
    """Per-query terms of one predictor's metrics.

    Attributes:
        terms: ``[n, k]``, what is summed over queries.
        scores: Each metric by name, as a function of the sums ``[..., k]``.
        counted: ``[n]`` by metric: queries that it is about, for the size of the evidence; all where it is not named.
        signed: Metrics that may be below 0, such as changes; the others go from 0 to 1.
    """

    terms: Floats
    scores: Mapping[str, Score]
    counted: Mapping[str, Floats] = field(default_factory=dict)
    signed: frozenset[str] = frozenset()


def ratio(above: int, below: int) -> Score:
    """The metric ``sum of term above / sum of term below``."""

    def score(sums: Floats) -> Floats:
        return _share(sums[..., above], sums[..., below])

    return score


def f_beta(hits: int, predicted: int, gold: int, *, beta: float = 1.0) -> Score:
    """The metric ``F = (1 + b²) hits / (predicted + b² gold)``, NaN where nothing is predicted and nothing is gold.

    The weighted harmonic mean of precision ``hits / predicted`` and recall ``hits / gold`` (van Rijsbergen 1979).
    """

    def score(sums: Floats) -> Floats:
        square = beta * beta
        return _share((1 + square) * sums[..., hits], sums[..., predicted] + square * sums[..., gold])

    return score


def estimates(
    tally: Tally, groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> dict[str, Estimate]:
    """Each metric with its interval, from resamples of groups.

    Args:
        tally: Terms of n queries.
        groups: ``[n]``, what is independent: the query, or what queries that are variants of one share.
        resamples: How many.
        seed: Of the resamples.
        level: Coverage aimed at.
    """
    drawn = Resamples.of(np.asarray(groups, dtype=object), count=resamples, seed=seed)
    sums, draws = tally.terms.sum(axis=0), drawn.sums(tally.terms)
    found = {}
    for name, score in tally.scores.items():
        size = _size(tally, name, drawn)
        value, proportion = float(score(sums)), name not in tally.signed
        found[name] = estimate(value, score(draws), size, level=level, proportion=proportion)
    return found


class PairedClaim(Frozen):
    """Whether a student is at least as good as its teacher, as a one-sided claim on the same queries."""

    metric: str = Field(description="what is compared")
    student: float = Field(description="the student's value")
    teacher: float = Field(description="the teacher's value on the same queries")
    difference: float = Field(description="student less teacher")
    lower: float | None = Field(description="lower confidence bound of the difference; None with fewer than two groups")
    p_value: float | None = Field(
        description="chance of such a difference or a greater one if the student were worse by the margin"
    )
    margin: float = Field(description="by how much the student may be worse and still count as at least as good")
    level: float = Field(description="confidence of the claim")
    groups: int = Field(description="independent groups behind it")

    @property
    def holds(self) -> bool:
        """Whether the claim is shown at its level: the lower bound is above minus the margin."""
        return self.lower is not None and self.lower > -self.margin


def paired_claim(
    student: Tally,
    teacher: Tally,
    groups: Sequence[str],
    *,
    metric: str,
    margin: float = 0.0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> PairedClaim:
    r"""Tests *student ≥ teacher − margin* against the null that the student is worse by the margin or more.

    Both are scored on the same resamples of groups. The lower bound is the ``1 - level`` quantile of the resampled
    differences, widened for few groups as in :mod:`distill.eval.intervals`. The p-value is of the null-centred
    bootstrap (Efron & Tibshirani 1993, section 16.4; one added above and below, Davison & Hinkley 1997),

    .. math:: p = \frac{1 + \#\{b : d^*_b - d \ge d + m\}}{1 + B}

    With margin 0 it says that the student is better than the teacher: two equals pass one time in twenty. To claim
    *not worse*, name beforehand a margin that would not matter.

    Raises:
        DataError: The two do not have the same queries or metrics.
    """
    if student.terms.shape != teacher.terms.shape or metric not in student.scores or len(groups) != len(student.terms):
        raise DataError(
            f"paired claim: student {student.terms.shape}, teacher {teacher.terms.shape}, {len(groups)} groups, "
            f"metric {metric!r} of {list(student.scores)}; score both on the same queries with the same function"
        )
    drawn = Resamples.of(np.asarray(groups, dtype=object), count=resamples, seed=0)
    score = student.scores[metric]
    values = [float(score(side.terms.sum(axis=0))) for side in (student, teacher)]
    difference = values[0] - values[1]
    draws = score(drawn.sums(student.terms)) - score(drawn.sums(teacher.terms))
    # A two-sided interval of 2 · level - 1 has its lower end at the one-sided bound of level.
    both = estimate(difference, draws, _size(student, metric, drawn), level=2 * level - 1)
    known = draws[np.isfinite(draws)]
    exceeding = int((known - difference >= difference + margin - 1e-12).sum())
    return PairedClaim(
        metric=metric,
        student=values[0],
        teacher=values[1],
        difference=difference,
        lower=both.low,
        p_value=(1 + exceeding) / (1 + len(known)) if both.low is not None else None,
        margin=margin,
        level=level,
        groups=both.groups,
    )


def _size(tally: Tally, name: str, drawn: Resamples) -> Size:
    counted = tally.counted.get(name)
    rows = np.arange(len(tally.terms)) if counted is None else np.flatnonzero(counted)
    return Size(len(rows), len(np.unique(drawn.codes[rows])))


def _share(above: Floats, below: Floats) -> Floats:
    above, below = np.asarray(above, float), np.asarray(below, float)
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)
