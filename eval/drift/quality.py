"""What a shift does to a student's quality, as far as that can be said.

Three readings, none of which stands in for another:

* **Expected**: how often the student expects to be right (CBPE, :mod:`distill.eval.label_free`). It follows a change of
  the rows where the student is calibrated on them; it cannot see that what is right has changed.
* **Reweighted**: the share right on the reference's gold, its rows weighted to look like the current ones. It holds
  where only the rows' mix has changed (covariate shift) and the reference has rows like the current ones.
* **Measured**: the share right on current rows that people labeled. Only this grades the student today.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from distill.eval.drift.exchange import Exchange, differences
from distill.eval.drift.facts import Quality
from distill.eval.intervals import Estimate, Resamples, Size, estimate, undefined
from distill.eval.metrics import Floats
from distill.eval.scored import TruthSource

MOST_WEIGHT = 50.0
"""A row counts at most this often, and at least its inverse: beyond, a few rows would be the whole estimate."""
_FEWEST_EFFECTIVE = 30.0
_APART = 0.9
"""Where the classifier is that good, the sets hardly overlap, and no weights make one look like the other."""
_ASSUMES = (
    "The expectation holds where the student is calibrated and only the mix of rows has changed; that what counts as "
    "right has changed it cannot see."
)


@dataclass(frozen=True)
class Answers:
    """A student's answers to both sets, the reference's rows first, ``[n]`` each.

    Attributes:
        label: What it said.
        confidence: Its highest probability; NaN where it gave none.
        gold: People's labels, null where nobody gave one.
        truth_source: Who gave them.
    """

    label: pl.Series
    confidence: Floats
    gold: pl.Series
    truth_source: TruthSource


@dataclass(frozen=True)
class Likeness:
    """What the classifier of both sets says.

    Attributes:
        probability: ``[n]``, that a row is a current one; NaN on rows that it did not read.
        auc: How well it tells the sets apart.
    """

    probability: Floats
    auc: float


def quality(
    student: str,
    answers: Answers,
    exchange: Exchange,
    likeness: Likeness | None,
    *,
    level: float = 0.95,
    few_groups: int = 20,
) -> Quality:
    """Puts the three readings together.

    Args:
        student: Its name.
        answers: To both sets.
        exchange: Their blocks.
        likeness: From the classifier of both sets; None without one.
        level: Coverage of the intervals.
        few_groups: Fewer groups than this give no reweighted number.
    """
    side, gold = exchange.side, answers.gold.is_not_null().to_numpy()
    right = (answers.label == answers.gold).fill_null(False).to_numpy().astype(float)
    sure = answers.confidence
    known = np.isfinite(sure)
    expected = [_mean(sure, own & known, exchange, level) for own in (~side, side)]
    values = np.where(known, sure, 0.0)[:, None]
    below = exchange.sums(known.astype(float)[:, None])[:, 0]
    difference = differences(exchange.sums(values), exchange, total=below, level=level)[0]
    notes = [_ASSUMES]
    answered = answers.label.is_not_null().to_numpy()
    checked = ~side & gold & answered
    gap = measured = reweighted = current = None
    effective = None
    if checked.any():
        gap = _mean(sure - right, checked & known, exchange, level)
        measured = _mean(right, checked, exchange, level)
        reweighted, effective, note = _reweighted(right, checked, exchange, likeness, (level, few_groups))
        notes += [note] if note else []
        if gap.low is not None and gap.high is not None and not gap.low <= 0.0 <= gap.high:
            way = "above" if (gap.value or 0.0) > 0 else "below"
            notes.append(
                f"On the reference's gold its confidence lies {way} the share right: read how the expectation moved, "
                "not where it stands."
            )
    else:
        notes.append("The reference has no gold: whether the student is calibrated is not known.")
    if (side & gold & answered).any():
        current = _mean(right, side & gold & answered, exchange, level)
        notes.append("The current gold speaks for all current rows where those rows were drawn at random.")
    return Quality(
        student=student,
        expected_reference=expected[0],
        expected_current=expected[1],
        difference=difference,
        gap=gap,
        measured_reference=measured,
        reweighted=reweighted,
        effective_rows=effective,
        measured_current=current,
        truth_source=answers.truth_source,
        notes=tuple(notes),
    )


def importance_weights(probability: Floats) -> Floats:
    """Weights ``p / (1 - p)``, kept between 1 / :data:`MOST_WEIGHT` and :data:`MOST_WEIGHT`."""
    odds: Floats = probability / np.maximum(1.0 - probability, 1e-12)
    return np.clip(odds, 1.0 / MOST_WEIGHT, MOST_WEIGHT)


def effective_size(weights: Floats) -> float:
    r"""How many rows of equal weight these are worth: :math:`(\sum w)^2 / \sum w^2` (Kish 1965)."""
    square = float((weights**2).sum())
    return float(weights.sum()) ** 2 / square if square > 0 else 0.0


def _reweighted(
    right: Floats, checked: np.ndarray, exchange: Exchange, likeness: Likeness | None, limits: tuple[float, int]
) -> tuple[Estimate | None, float | None, str | None]:
    if likeness is None:
        return None, None, None
    level, few_groups = limits
    use = checked & np.isfinite(likeness.probability)
    if not use.any():
        return None, None, None
    if likeness.auc >= _APART:
        note = (
            f"The reference has hardly any row like the current ones (AUC {likeness.auc:.2f}): its gold says nothing "
            "of quality on rows like these."
        )
        return None, None, note
    weights = importance_weights(likeness.probability[use]) * exchange.mass[use]
    effective = effective_size(weights)
    of_groups = effective_size(np.bincount(exchange.block[use], weights=weights).astype(float))
    if effective < _FEWEST_EFFECTIVE or of_groups < few_groups:
        note = (
            f"Too few of the reference's gold rows look like the current ones (they are worth {effective:.0f} rows of "
            f"{of_groups:.0f} groups): nothing is said of quality on rows like these."
        )
        return None, effective, note
    found = _weighted(right[use], weights, exchange.block[use], exchange, level)
    return found, effective, None


def _mean(values: Floats, use: np.ndarray, exchange: Exchange, level: float) -> Estimate:
    return _weighted(values[use], exchange.mass[use], exchange.block[use], exchange, level)


def _weighted(values: Floats, weights: Floats, block: np.ndarray, exchange: Exchange, level: float) -> Estimate:
    if not len(values):
        return undefined("no rows", level=level)
    codes = np.unique(block, return_inverse=True)[1].astype(np.int64)
    resamples = Resamples(codes, len(np.unique(codes)), 1000, exchange.seed)
    sums = resamples.sums(np.column_stack([values * weights, weights]))
    value = float((values * weights).sum() / weights.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = sums[:, 0] / sums[:, 1]
    return estimate(value, draws, Size(len(values), resamples.groups), level=level)
