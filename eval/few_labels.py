"""Quality where people labeled only a part of the test rows: their labels and everybody's guesses, put together.

Each figure is estimated twice: from the labels alone, and with the probabilities of student and merged label as guesses
of what the rest would be (:mod:`distill.eval.prediction_powered`). The second is as honest as the first and at best far
narrower; how many labels alone would be as narrow is said beside it.

Both hold where the rows with labels are a random sample of the test rows, or were drawn with chances that are known
(column ``chance`` of the rows; a row with gold and without a chance was labeled for certain, see
:mod:`distill.eval.drawn_rows`). Rows that somebody picked by eye are neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.drawn_rows import chances, drawn_sample
from distill.eval.evaluation import primary_metric
from distill.eval.frozen import Frozen
from distill.eval.metrics import Floats, Ints
from distill.eval.prediction_powered import PredictionPowered, prediction_powered_mean
from distill.eval.scored import TruthSource, label_indices
from distill.labeling.task import Task

ShareMetric = Literal["accuracy", "positive_accuracy"]
CUTOFFS = (1, 5, 10)
"""Ranks down to which precision by query is estimated."""
_FEWEST_LABELED = 10
_FEWEST_GROUPS = 2


class LabeledDifference(Frozen):
    """How much better one predictor is than another, by a few labels and many guesses."""

    better: str
    than: str
    metric: str
    found: PredictionPowered


class FewLabels(Frozen):
    """What a part of the test rows with labels tells of all of them."""

    truth_source: TruthSource
    rows: int = Field(description="test rows")
    labeled: int = Field(description="of them, rows with a label")
    groups: int = Field(description="groups that these are in")
    drawn: bool = Field(description="whether rows were drawn with chances that are known; otherwise taken as a sample")
    positive: str | None = None
    metric: ShareMetric = Field(description="of these figures the one that the ladder compares, or the nearest to it")
    quality: dict[str, dict[str, PredictionPowered]] = Field(
        default_factory=dict, description="by who was measured, then by metric: shares, and precision@k by query"
    )
    prevalence: PredictionPowered | None = Field(None, description="share of the positive label in all test rows")
    differences: list[LabeledDifference] = Field(default_factory=list)


def partly_labeled(rows: pl.DataFrame) -> bool:
    """Whether the test rows have gold for a part, and enough of it to estimate from."""
    test = rows.filter(pl.col("split") == "test")
    labeled = test.filter(pl.col("gold").is_not_null())
    return _FEWEST_LABELED <= len(labeled) < len(test) and labeled["group"].n_unique() >= _FEWEST_GROUPS


def measure_few_labels(
    predictors: Mapping[str, pl.DataFrame],
    rows: pl.DataFrame,
    *,
    task: Task,
    truth_source: TruthSource,
    labels: pl.DataFrame | None = None,
    compare: Sequence[tuple[str, str]] = (),
    config: EvalConfig | None = None,
) -> FewLabels:
    """Estimates quality, prevalence, differences and precision at k on all test rows from the labels of some.

    Args:
        predictors: By name: ``row_id``, ``label`` and perhaps ``probs`` on the test rows.
        rows: The rows table; ``chance`` where rows were drawn for labeling.
        task: The labels.
        truth_source: Who gave the gold.
        labels: Merged labels with ``probs``, as further guesses.
        compare: Names of two, the better first.
        config: Level, weights, and what the ladder compares.

    Raises:
        DataError: A label is outside the set.
    """
    config = config or EvalConfig()
    test = _Tested.of(rows, task, config, labels)
    seen = {name: _Predictor.of(table, test, task) for name, table in predictors.items()}
    found: dict[str, dict[str, PredictionPowered]] = {}
    for name, one in seen.items():
        metrics: tuple[ShareMetric, ...] = ("positive_accuracy", "accuracy") if task.positive else ("accuracy",)
        told: dict[str, PredictionPowered | None] = {}
        for metric in metrics:
            truth, guess = one.right(test, metric)
            told[metric] = test.mean(truth, guess, at=one.at)
        told |= {f"precision@{k}": _precision_at(one, test, k) for k in CUTOFFS}
        found[name] = {metric: value for metric, value in told.items() if value is not None}
    differences = [_difference(seen[one], seen[other], test, config) for one, other in compare]
    labeled = np.isfinite(test.gold_known)
    return FewLabels(
        truth_source=truth_source,
        rows=len(test.frame),
        labeled=int(labeled.sum()),
        groups=len(np.unique(test.group[labeled])),
        drawn=test.chance is not None and bool((test.chance[labeled] < 1.0).any()),
        positive=task.positive,
        metric=_compared_by(task, config),
        quality=found,
        prevalence=_prevalence(test, list(seen.values())),
        differences=[
            LabeledDifference(better=one, than=other, metric=metric, found=value)
            for (one, other), pair in zip(compare, differences, strict=True)
            if pair is not None
            for metric, value in [pair]
        ],
    )


@dataclass(frozen=True)
class _Tested:
    """The test rows, as arrays.

    Attributes:
        frame: The rows, ``N`` of them.
        gold: ``[N]``, index of the label; -1 where nobody gave one.
        group: ``[N]``.
        weight: ``[N]``.
        chance: ``[N]``, with which each labeled row was drawn; None for a plain sample.
        merged: ``[N, L]``, distributions of the merged labels; NaN where there is none.
        task: The labels.
        level: Of the intervals.
    """

    frame: pl.DataFrame
    gold: Ints
    group: np.ndarray
    weight: Floats
    chance: Floats | None
    merged: Floats
    task: Task
    level: float

    @classmethod
    def of(cls, rows: pl.DataFrame, task: Task, config: EvalConfig, labels: pl.DataFrame | None) -> _Tested:
        test = rows.filter(pl.col("split") == "test").sort("row_id")
        known = test["gold"].is_not_null().to_numpy()
        gold = np.full(len(test), -1, dtype=np.int64)
        gold[known] = label_indices(test["gold"].drop_nulls(), task, "rows")
        weight = np.ones(len(test))
        if config.weighted and "weight" in test.columns:
            weight = test["weight"].to_numpy().astype(float)
        return cls(
            frame=test,
            gold=gold,
            group=test["group"].to_numpy(),
            weight=weight,
            chance=chances(test, "few labels"),
            merged=_distributions(test, labels, len(task.labels)),
            task=task,
            level=config.level,
        )

    @property
    def gold_known(self) -> Floats:
        """``[N]``, 1 where there is a label and NaN elsewhere."""
        return np.where(self.gold >= 0, 1.0, np.nan)

    def mean(
        self,
        truth: Floats,
        guess: Floats,
        *,
        at: Ints,
        strata: np.ndarray | None = None,
        weight: Floats | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> PredictionPowered | None:
        """The weighted mean of what is true, over the rows at these positions; None where too few are labeled."""
        labeled = np.isfinite(truth)
        if labeled.sum() < _FEWEST_LABELED or len(np.unique(self.group[at][labeled])) < _FEWEST_GROUPS:
            return None
        weight = self.weight[at] if weight is None else weight
        chance = None if self.chance is None else self.chance[at]
        truth, guess = _weighed(truth, guess, weight, chance)
        sample = drawn_sample(truth, guess, self.group[at], chance, stratum=strata)
        return prediction_powered_mean(sample, level=self.level, bounds=bounds)


@dataclass(frozen=True)
class _Predictor:
    """What one predictor says of the test rows that it answered.

    Attributes:
        at: ``[n]``, their positions among the test rows.
        codes: ``[n]``, the labels given.
        probs: ``[n, L]``, its distributions; NaN where it states none.
        guess: ``[n, L]``, how probable each label is, by all that is known without a person.
        positive: Place of the positive label; None where there is none.
    """

    at: Ints
    codes: Ints
    probs: Floats
    guess: Floats
    positive: int | None

    @classmethod
    def of(cls, predictions: pl.DataFrame, test: _Tested, task: Task) -> _Predictor:
        said = predictions.filter(pl.col("label").is_not_null())
        columns = ["row_id", "label", *(["probs"] if "probs" in said.columns else [])]
        places = test.frame.select("row_id").with_row_index("_at")
        said = places.join(said.select(columns), on="row_id", maintain_order="left")
        probs = _distributions(said.select("row_id"), said if "probs" in columns else None, len(task.labels))
        at = said["_at"].to_numpy().astype(np.int64)
        return cls(
            at=at,
            codes=label_indices(said["label"], task, "predictions"),
            probs=probs,
            guess=_guess(probs, test.merged[at]),
            positive=task.positive_index,
        )

    def right(self, test: _Tested, metric: ShareMetric) -> tuple[Floats, Floats]:
        """Whether each row is right, NaN where nobody said, and how probably it is."""
        gold, rows = test.gold[self.at], np.arange(len(self.at))
        if metric == "accuracy":
            truth, guess = (self.codes == gold).astype(float), self.guess[rows, self.codes]
        else:
            assert self.positive is not None
            says, match = self.codes == self.positive, self.guess[:, self.positive]
            truth, guess = (says == (gold == self.positive)).astype(float), np.where(says, match, 1.0 - match)
        return np.where(gold >= 0, truth, np.nan), guess

    def side(self, metric: ShareMetric) -> np.ndarray:
        """What a row was called, as far as the metric looks at it."""
        return self.codes if metric == "accuracy" else self.codes == self.positive


def _precision_at(one: _Predictor, test: _Tested, k: int) -> PredictionPowered | None:
    """Share of the positive label among the first ``k`` of each query that has as many rows, a query counting once."""
    if one.positive is None or np.isnan(one.probs).any():
        return None
    scores = pl.DataFrame({"group": test.group[one.at], "score": one.probs[:, one.positive]}).with_row_index("place")
    scores = scores.with_columns(weight=pl.Series(test.weight[one.at]))
    scores = scores.with_columns(pl.col("weight").mean().over("group")).filter(pl.len().over("group") >= k)
    top = scores.sort("group", "score", "place", descending=[False, True, False]).group_by("group").head(k)
    if len(top) == 0:
        return None
    place = top["place"].to_numpy().astype(np.int64)
    at, gold = one.at[place], test.gold[one.at[place]]
    truth = np.where(gold >= 0, (gold == one.positive).astype(float), np.nan)
    return test.mean(truth, one.guess[place, one.positive], at=at, weight=top["weight"].to_numpy())


def _difference(
    one: _Predictor, other: _Predictor, test: _Tested, config: EvalConfig
) -> tuple[str, PredictionPowered] | None:
    """On the rows that both answered. Where they say the same the difference is nought, whoever is right.

    Rows on which they differ are a stratum of their own. For a single share no strata are made: telling rows apart by
    the label given narrowed no interval (docs/log.md).
    """
    metric = _compared_by(test.task, config)
    at, first, second = np.intersect1d(one.at, other.at, return_indices=True)
    (truth_one, guess_one), (truth_other, guess_other) = one.right(test, metric), other.right(test, metric)
    differ = one.side(metric)[first] != other.side(metric)[second]
    guess = np.where(differ, guess_one[first] - guess_other[second], 0.0)
    truth = truth_one[first] - truth_other[second]
    found = test.mean(truth, guess, at=at, strata=differ, bounds=(-1.0, 1.0))
    return None if found is None else (metric, found)


def _compared_by(task: Task, config: EvalConfig) -> ShareMetric:
    """A share of rows: what the ladder compares where that is one."""
    metric = primary_metric(task, config)
    return "positive_accuracy" if metric in ("positive_accuracy", "auc") and task.positive is not None else "accuracy"


def _prevalence(test: _Tested, seen: Sequence[_Predictor]) -> PredictionPowered | None:
    positive = test.task.positive_index
    if positive is None:
        return None
    truth = np.where(test.gold >= 0, (test.gold == positive).astype(float), np.nan)
    stated = np.full((len(seen) + 1, len(test.gold)), np.nan)
    stated[0] = test.merged[:, positive]
    for number, one in enumerate(seen, start=1):
        stated[number, one.at] = one.probs[:, positive]
    guess = np.where(np.isfinite(stated[0]), stated[0], _mean_of_known(stated[1:]))
    return test.mean(truth, _filled(guess), at=np.arange(len(test.gold)))


def _weighed(truth: Floats, guess: Floats, weight: Floats, chance: Floats | None) -> tuple[Floats, Floats]:
    """Values whose plain mean is the weighted one: the ratio of two means, made linear at the labels' own.

    With ``r`` the weighted mean of the labels, ``r + w (y - r) / mean(w)``; the labels' own mean is then exactly ``r``.
    """
    if np.allclose(weight, weight[0]):
        return truth, guess
    labeled = np.isfinite(truth)
    counted = weight[labeled] if chance is None else weight[labeled] / chance[labeled]
    ratio = float(np.average(truth[labeled], weights=counted))
    scaled = weight / weight.mean()
    return ratio + scaled * (truth - ratio), ratio + scaled * (guess - ratio)


def _distributions(rows: pl.DataFrame, table: pl.DataFrame | None, labels: int) -> Floats:
    """``[N, L]``, in the order of ``rows``; NaN where the table has none."""
    found = np.full((len(rows), labels), np.nan)
    if table is None or "probs" not in table.columns:
        return found
    joined = rows.select("row_id").join(table.select("row_id", "probs"), on="row_id", how="left", maintain_order="left")
    known = joined["probs"].is_not_null().to_numpy()
    if known.any():
        found[known] = joined["probs"].drop_nulls().explode().to_numpy().reshape(-1, labels)
    return found


def _guess(own: Floats, merged: Floats) -> Floats:
    """Mean of what the student and the merged label say of each label; one of them where the other is silent."""
    return np.stack(
        [_filled(_mean_of_known(np.stack([own[:, label], merged[:, label]]))) for label in range(own.shape[1])], axis=1
    )


def _mean_of_known(stated: Floats) -> Floats:
    """Mean over the first axis of what is not NaN; NaN where all is."""
    known = np.isfinite(stated)
    count = known.sum(axis=0)
    found: Floats = np.where(count > 0, np.where(known, stated, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
    return found


def _filled(values: Floats) -> Floats:
    """A guess for every row: where there is none, the mean of the others, which pulls nowhere."""
    known = np.isfinite(values)
    mean = float(values[known].mean()) if known.any() else 0.5
    return np.where(known, values, mean)
