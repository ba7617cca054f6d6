"""One predictor measured against the truth: every metric with its interval, and what lies behind it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval import metrics
from distill.eval.config import EvalConfig, MetricName
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, Size, estimate, ratio_estimates, undefined
from distill.eval.metrics import Floats, Ints
from distill.eval.ranking import RANK_METRICS, Judged, rank_estimates
from distill.eval.scored import Scored, TruthSource, score_rows
from distill.labeling.task import Task

_MATRIX_METRICS = ("accuracy", "positive_accuracy", "macro_f1", "grade_error")
_SHARES = {"accuracy", "positive_accuracy", "macro_f1", "auc"}
_BOUNDS = {
    **dict.fromkeys(("log_loss", "brier", "calibration_error", "grade_error"), (0.0, float("inf"))),
    "ranked_probability": (0.0, 1.0),
}
METRICS = (
    "accuracy",
    "positive_accuracy",
    "macro_f1",
    "auc",
    "log_loss",
    "brier",
    "calibration_error",
    "grade_error",
    "ranked_probability",
    *RANK_METRICS,
)
"""Names of all metrics, in the order in which they are shown."""

LOWER_IS_BETTER = frozenset({"log_loss", "brier", "calibration_error", "grade_error", "ranked_probability"})


class SliceScore(Frozen):
    """The metrics on the rows that share a value of a column."""

    column: str
    value: str
    rows: int
    metrics: dict[str, Estimate]


class ReliabilityBin(Frozen):
    """Rows whose confidence fell between two bounds: how sure the predictor was, and how often it was right."""

    low: float
    high: float
    confidence: float
    correct: Estimate


class RiskPoint(Frozen):
    """What is left when only the surest predictions are kept."""

    coverage: float = Field(description="share of rows kept, surest first")
    risk: float = Field(description="share of wrong labels among them")
    threshold: float = Field(description="the confidence of the least sure one kept")


class Evaluation(Frozen):
    """How good one predictor is, against whose labels, and how sure that is.

    ``metrics`` holds those named in :data:`METRICS` that the task has; the ones that rows lack the data for are there
    with a value of None and the reason. Write it with ``model_dump_json()``, read it with ``model_validate_json``.
    """

    truth_source: TruthSource
    split: str | None
    labels: tuple[str, ...]
    positive: str | None
    rows: int = Field(description="rows scored")
    groups: int = Field(description="groups among them")
    unanswered: int = Field(description="rows with a truth and no prediction: in none of the numbers")
    gold_counts: dict[str, int]
    metrics: dict[str, Estimate]
    commonest: dict[str, float] = Field(description="what answering the commonest label always would score")
    confusion: list[list[float]] = Field(description="weight by true label (line) and predicted label (column)")
    slices: list[SliceScore] = Field(default_factory=list)
    reliability: list[ReliabilityBin] = Field(default_factory=list)
    risk_coverage: list[RiskPoint] = Field(default_factory=list)


class _Draws(NamedTuple):
    value: float
    draws: Floats


def primary_metric(task: Task, config: EvalConfig) -> MetricName:
    """The metric that the ladder compares: the one configured, else match-or-not, else accuracy."""
    if config.metric is not None:
        return config.metric
    return "accuracy" if task.positive is None else "positive_accuracy"


def evaluate(
    predictions: pl.DataFrame,
    rows: pl.DataFrame,
    *,
    task: Task,
    truth_source: TruthSource,
    config: EvalConfig | None = None,
    seed: int = 0,
    split: str | None = "test",
) -> Evaluation:
    """Measures predictions against the gold labels of a split.

    Args:
        predictions: ``row_id``, ``label``, and ``probs`` for the metrics of probability.
        rows: The rows table. For agreement with merged labels, pass it through
            :func:`distill.eval.scored.rows_with_merged_truth` and say ``truth_source="teacher"``.
        task: What was asked.
        truth_source: Whose labels stand in ``gold``.
        config: Resamples, level, slices.
        seed: Of the resamples: the same seed and rows give the same intervals.
        split: Rows of this split only; None for all that have gold.

    Raises:
        DataError: There is no gold in the split, or the tables do not fit: see
            :func:`distill.eval.scored.score_rows`.
    """
    config = config or EvalConfig()
    scored = score_rows(predictions, rows, task=task, split=split, weighted=config.weighted)
    resamples = Resamples.of(scored.group, count=config.bootstrap, seed=seed)
    everything = np.arange(len(scored.gold))
    matrix = metrics.confusion(scored.gold, scored.predicted, labels=len(task.labels), weight=scored.weight)
    return Evaluation(
        truth_source=truth_source,
        split=split,
        labels=task.labels,
        positive=task.positive,
        rows=len(scored.gold),
        groups=resamples.groups,
        unanswered=scored.unanswered,
        gold_counts={label: int((scored.gold == i).sum()) for i, label in enumerate(task.labels)},
        metrics=_all_metrics(scored, everything, task=task, resamples=resamples, level=config.level)
        | _rank_metrics(scored, task=task, resamples=resamples, level=config.level),
        commonest=_commonest(matrix, task),
        confusion=matrix.tolist(),
        slices=_slices(scored, task=task, config=config, resamples=resamples),
        reliability=_reliability(scored, resamples, level=config.level),
        risk_coverage=_risk_coverage(scored),
    )


def paired_difference(
    better: pl.DataFrame,
    than: pl.DataFrame,
    rows: pl.DataFrame,
    *,
    task: Task,
    config: EvalConfig | None = None,
    seed: int = 0,
    split: str | None = "test",
) -> Estimate:
    """The primary metric of one predictor less that of another, on the rows that both answered.

    Both are scored on the same resamples of groups, so that what is hard for both cancels out: the interval is far
    narrower than the two single intervals suggest.

    Raises:
        DataError: As :func:`evaluate`.
    """
    config = config or EvalConfig()
    metric = primary_metric(task, config)
    common = better.filter(pl.col("label").is_not_null()).select("row_id")
    common = common.join(than.filter(pl.col("label").is_not_null()).select("row_id"), on="row_id")
    shared = rows.join(common, on="row_id", how="semi")
    sides = [score_rows(side, shared, task=task, split=split, weighted=config.weighted) for side in (better, than)]
    size = Size(len(sides[0].gold), len(np.unique(sides[0].group)))
    if metric == "auc" and any(side.probs is None for side in sides):
        return undefined("one of the two states no probabilities", size, level=config.level)
    resamples = Resamples.of(sides[0].group, count=config.bootstrap, seed=seed)
    everything = np.arange(size.rows)
    first, second = (_metric_draws(side, everything, metric, task=task, resamples=resamples) for side in sides)
    return estimate(first.value - second.value, first.draws - second.draws, size, level=config.level)


def _all_metrics(scored: Scored, at: Ints, *, task: Task, resamples: Resamples, level: float) -> dict[str, Estimate]:
    size = Size(len(at), len(np.unique(resamples.codes[at])))
    found = {}
    for name in METRICS:
        if name in RANK_METRICS:
            continue
        if (name in ("positive_accuracy", "auc") and task.positive is None) or (
            name in ("grade_error", "ranked_probability") and not task.ordered
        ):
            continue
        if name not in _MATRIX_METRICS and scored.probs is None:
            found[name] = undefined("states no probabilities", size, level=level)
            continue
        drawn = _metric_draws(scored, at, name, task=task, resamples=resamples)
        if name == "auc" and not np.isfinite(drawn.value):
            found[name] = undefined(f"needs rows both with and without the label {task.positive}", size, level=level)
            continue
        share, bounds = name in _SHARES, _BOUNDS.get(name)
        found[name] = estimate(drawn.value, drawn.draws, size, level=level, proportion=share, bounds=bounds)
    return found


def _rank_metrics(scored: Scored, *, task: Task, resamples: Resamples, level: float) -> dict[str, Estimate]:
    """Metrics of whole queries; none where rows were drawn one by one: what is judged of a query ranks otherwise."""
    if scored.probs is None or scored.drawn:
        return {}
    judged = Judged(scored.gold, scored.probs, resamples.codes, scored.weight)
    return rank_estimates(judged, task=task, resamples=resamples, level=level)


def _metric_draws(scored: Scored, at: Ints, metric: str, *, task: Task, resamples: Resamples) -> _Draws:
    """The metric on the rows at these positions, and on each resample of them."""
    gold, weight = scored.gold[at], scored.weight[at]
    if metric in _MATRIX_METRICS:
        return _matrix_draws(scored, at, metric, task=task, resamples=resamples)
    assert scored.probs is not None
    probs = scored.probs[at]
    if metric == "auc":
        assert task.positive_index is not None
        ranked = metrics.rank_scores(probs[:, task.positive_index], gold == task.positive_index)
        even = bool((weight == 1).all())

        def score(times: Floats) -> Floats:
            return metrics.auc_of_ranked(ranked, times if even else times * weight)

        return _Draws(float(score(np.ones((1, len(at))))[0]), resamples.map_weights(score, rows=at))
    if metric == "calibration_error":
        return _calibration_draws(scored, at, resamples)
    per_row = {
        "log_loss": metrics.log_losses,
        "brier": metrics.brier_scores,
        "ranked_probability": metrics.ranked_probability_scores,
    }[metric](probs, gold)
    sums = resamples.sums(np.stack([per_row * weight, weight], axis=1), rows=at)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _Draws(float(np.average(per_row, weights=weight)), sums[:, 0] / sums[:, 1])


def _matrix_draws(scored: Scored, at: Ints, metric: str, *, task: Task, resamples: Resamples) -> _Draws:
    labels = len(task.labels)
    cells = np.zeros((len(at), labels * labels))
    cells[np.arange(len(at)), scored.gold[at] * labels + scored.predicted[at]] = scored.weight[at]

    def score(matrix: Floats) -> Floats:
        if metric == "positive_accuracy":
            assert task.positive_index is not None
            return metrics.positive_accuracy(matrix, positive=task.positive_index)
        of_matrix = {
            "accuracy": metrics.accuracy,
            "macro_f1": metrics.macro_f1,
            "grade_error": metrics.mean_grade_error,
        }
        return of_matrix[metric](matrix)

    drawn = resamples.sums(cells, rows=at).reshape(-1, labels, labels)
    return _Draws(float(score(cells.sum(axis=0).reshape(labels, labels))), score(drawn))


def _calibration_draws(scored: Scored, at: Ints, resamples: Resamples) -> _Draws:
    assert scored.probs is not None
    confidence = scored.probs[at, scored.predicted[at]]
    right = (scored.predicted[at] == scored.gold[at]).astype(float)
    weight, bins = scored.weight[at], metrics.CALIBRATION_BINS
    value = metrics.expected_calibration_error(metrics.binned(confidence, right, weight=weight))
    member = np.eye(bins)[metrics.calibration_bin(confidence)] * weight[:, None]
    columns = [member, member * confidence[:, None], member * right[:, None]]
    drawn = resamples.sums(np.concatenate(columns, axis=1), rows=at).reshape(-1, 3, bins)
    parts = metrics.Binned(drawn[:, 0], drawn[:, 1], drawn[:, 2])
    return _Draws(float(value), metrics.expected_calibration_error(parts))


def _slices(scored: Scored, *, task: Task, config: EvalConfig, resamples: Resamples) -> list[SliceScore]:
    found = []
    for column in config.slices:
        if column not in scored.frame.columns:
            continue
        values = scored.frame[column].cast(pl.String).fill_null("(none)")
        for value in values.value_counts().sort(["count", column], descending=[True, False])[column][
            : config.slice_values
        ]:
            at = np.flatnonzero((values == value).to_numpy())
            numbers = _all_metrics(scored, at, task=task, resamples=resamples, level=config.level)
            found.append(SliceScore(column=column, value=value or "(empty)", rows=len(at), metrics=numbers))
    return found


def _reliability(scored: Scored, resamples: Resamples, *, level: float) -> list[ReliabilityBin]:
    if scored.probs is None:
        return []
    confidence, bins = scored.probs[np.arange(len(scored.gold)), scored.predicted], 10
    right = (scored.predicted == scored.gold).astype(float)
    place = metrics.calibration_bin(confidence, bins=bins)
    member = np.eye(bins)[place] * scored.weight[:, None]
    estimates = ratio_estimates(member * right[:, None], member, resamples, level=level)
    return [
        ReliabilityBin(
            low=b / bins,
            high=(b + 1) / bins,
            correct=estimates[b],
            confidence=float(np.average(confidence[place == b], weights=scored.weight[place == b])),
        )
        for b in range(bins)
        if member[:, b].sum() > 0
    ]


def _risk_coverage(scored: Scored, *, points: int = 20) -> list[RiskPoint]:
    if scored.probs is None:
        return []
    confidence = scored.probs[np.arange(len(scored.gold)), scored.predicted]
    order = np.argsort(-confidence, kind="stable")
    wrong = (scored.predicted != scored.gold)[order] * scored.weight[order]
    kept, weight = np.cumsum(wrong), np.cumsum(scored.weight[order])
    curve = []
    for step in range(1, points + 1):
        last = min(int(np.searchsorted(weight, weight[-1] * step / points - 1e-9)), len(order) - 1)
        curve.append(
            RiskPoint(
                coverage=float(weight[last] / weight[-1]),
                risk=float(kept[last] / weight[last]),
                threshold=float(confidence[order[last]]),
            )
        )
    return curve


def _commonest(matrix: Floats, task: Task) -> dict[str, float]:
    """What no model at all would score; the bar that every student must clear."""
    share = matrix.sum(axis=1) / matrix.sum()
    floor: dict[str, Any] = {"accuracy": float(share.max())}
    if task.positive_index is not None:
        floor["positive_accuracy"] = float(max(share[task.positive_index], 1 - share[task.positive_index]))
        floor["auc"] = 0.5
    return floor
