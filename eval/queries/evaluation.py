"""How good predictors are at each part of a query task: against gold, against teachers, and without any label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from distill.eval.intervals import Estimate, Size, estimate, undefined
from distill.eval.queries.answers import PartAnswers, answer_text, same_answer
from distill.eval.queries.claims import Predictor, Settings, check_claims, teacher_claims
from distill.eval.queries.facts import Check, Mistake, PartEvaluation, PartMeasurement, SliceFigure
from distill.eval.queries.metrics import Tally, estimates, ratio
from distill.eval.queries.tallies import Measured
from distill.eval.scored import TruthSource
from distill.labeling.task import Task


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
        claims=teacher_claims(predictors, measured, settings),
        check_claims=check_claims([one for one in predictors if one.is_student], teachers, settings),
        shown=shown.name if shown else None,
        mistakes=wrong[:mistakes],
        wrong=len(wrong),
    )


def mean_of(values: Mapping[str, float], settings: Settings) -> Estimate:
    """The mean of values by row id that may be below 0, such as differences, with its interval by group."""
    if not values:
        return undefined("no rows", level=settings.config.level)
    return _mean(values, settings, signed=frozenset({"mean"}))


def share_of(passed: Mapping[str, float], settings: Settings) -> Estimate:
    """The mean of values from 0 to 1 by row id, with its interval by group."""
    return _mean(passed, settings)


def _mean(values: Mapping[str, float], settings: Settings, *, signed: frozenset[str] = frozenset()) -> Estimate:
    terms = np.array([[value, 1.0] for value in values.values()]).reshape(-1, 2)
    return _estimates(Tally(terms, {"mean": ratio(0, 1)}, signed=signed), list(values), settings)["mean"]


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
