"""Quality metrics of a closed set, as pure functions on arrays.

Metrics that a confusion matrix determines take the matrix, with any leading dimensions, so that one call scores a
point estimate or two thousand resamples. The rest take rows. Nothing here knows of tables, groups or intervals: see
:mod:`distill.eval.intervals` for how sure a number is.

Throughout, ``n`` rows, ``L`` labels; ``gold`` and ``predicted`` are indices into the task's labels, ``probs`` is
``[n, L]`` with rows that sum to one, and ``weight`` says how often a row counts (default once).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CALIBRATION_BINS = 15
_LOWEST_PROBABILITY = 1e-6


class Binned(NamedTuple):
    """Rows sorted into bins by stated confidence. All three are ``[..., bins]``, sums and not means."""

    weight: Floats
    confidence: Floats
    correct: Floats


def confusion(gold: Ints, predicted: Ints, *, labels: int, weight: Floats | None = None) -> Floats:
    """Counts rows by gold label (first axis) and predicted label (second).

    Returns:
        ``[L, L]``, summing to the total weight.
    """
    cells = gold * labels + predicted
    return np.bincount(cells, weights=weight, minlength=labels * labels).astype(float).reshape(labels, labels)


def accuracy(matrix: Floats) -> Floats:
    """Share of rows with the right label.

    ``accuracy = sum_i C[i, i] / sum_ij C[i, j]``. NaN for an empty matrix.

    Args:
        matrix: Confusion ``[..., L, L]``.
    """
    return _ratio(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum(axis=(-2, -1)))


def positive_accuracy(matrix: Floats, *, positive: int) -> Floats:
    """Share of rows on the right side of *match or not*: all labels but the positive one count as the same.

    ``(C[p, p] + sum_{i != p, j != p} C[i, j]) / sum_ij C[i, j]``. For graded relevance with ``exact`` as the positive
    label it is exact-match accuracy. NaN for an empty matrix.

    Args:
        matrix: Confusion ``[..., L, L]``.
        positive: Index of the positive label.
    """
    total = matrix.sum(axis=(-2, -1))
    missed = matrix[..., positive, :].sum(axis=-1) - matrix[..., positive, positive]
    false = matrix[..., :, positive].sum(axis=-1) - matrix[..., positive, positive]
    return _ratio(total - missed - false, total)


def macro_f1(matrix: Floats) -> Floats:
    """Mean over labels of ``F1_i = 2 C[i, i] / (sum_j C[i, j] + sum_j C[j, i])``.

    Labels that occur neither in gold nor in predictions have no F1 and are left out of the mean, as scikit-learn does
    where it is given no list of labels.

    Args:
        matrix: Confusion ``[..., L, L]``.
    """
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    occurs = matrix.sum(axis=-1) + matrix.sum(axis=-2)
    scores = np.divide(2 * hits, occurs, out=np.zeros_like(occurs), where=occurs > 0)
    return _ratio(scores.sum(axis=-1), (occurs > 0).sum(axis=-1))


def mean_grade_error(matrix: Floats) -> Floats:
    """Mean distance in grades between gold and prediction, for ordered labels.

    ``sum_ij C[i, j] |i - j| / sum_ij C[i, j]``: 0 is perfect, 1 means one grade off on average.

    Args:
        matrix: Confusion ``[..., L, L]``, labels in order.
    """
    grades = np.arange(matrix.shape[-1])
    distance = np.abs(grades[:, None] - grades[None, :])
    return _ratio((matrix * distance).sum(axis=(-2, -1)), matrix.sum(axis=(-2, -1)))


def auc(scores: Floats, is_positive: NDArray[np.bool_], *, weight: Floats | None = None) -> float:
    """Area under the ROC curve: the chance that a positive row scores above a negative one, ties counting half.

    ``sum_{p, q} w_p w_q ([s_p > s_q] + [s_p = s_q] / 2) / (W_p W_q)`` over positive rows p and negative rows q,
    computed from one sort (Mann-Whitney U with midranks). NaN where either class is missing.

    Args:
        scores: ``[n]``, higher for likelier positives, for instance P(positive).
        is_positive: ``[n]``.
        weight: ``[n]``.
    """
    ranked = rank_scores(scores, is_positive)
    drawn = np.ones((1, len(scores))) if weight is None else weight[None, :]
    return float(auc_of_ranked(ranked, drawn)[0])


class Ranked(NamedTuple):
    """Scores sorted once for many weightings.

    Attributes:
        positives: ``[p]``, positions of the positive rows.
        negatives: ``[q]``, positions of the negative rows by ascending score.
        below: ``[p]``, how many negatives score below each positive.
        up_to: ``[p]``, how many score below it or the same.
    """

    positives: Ints
    negatives: Ints
    below: Ints
    up_to: Ints


def rank_scores(scores: Floats, is_positive: NDArray[np.bool_]) -> Ranked:
    """Sorts the negatives and finds each positive's place among them."""
    positives, negatives = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    positives = positives[np.argsort(scores[positives], kind="stable")]
    ascending, asked = scores[negatives], scores[positives]
    return Ranked(
        positives, negatives, np.searchsorted(ascending, asked, "left"), np.searchsorted(ascending, asked, "right")
    )


def auc_of_ranked(ranked: Ranked, weights: Floats) -> Floats:
    """:func:`auc` of one ranking under many weightings.

    A positive's wins are the weight of the negatives below it, and half of those tied with it: both are differences
    of one cumulated sum.

    Args:
        ranked: Of the scores.
        weights: ``[B, n]``.

    Returns:
        ``[B]``, NaN where a class has no weight.
    """
    negative = np.zeros((len(weights), len(ranked.negatives) + 1))
    np.cumsum(np.take(weights, ranked.negatives, axis=1), axis=1, out=negative[:, 1:])
    positive = np.take(weights, ranked.positives, axis=1)
    wins = np.einsum("bp,bp->b", positive, np.take(negative, ranked.below, axis=1))
    if not np.array_equal(ranked.below, ranked.up_to):
        wins = (wins + np.einsum("bp,bp->b", positive, np.take(negative, ranked.up_to, axis=1))) / 2
    return _ratio(wins, positive.sum(axis=1) * negative[:, -1])


def log_losses(probs: Floats, gold: Ints) -> Floats:
    """Per row, ``-ln p[gold]``. Their mean is the log loss (cross-entropy).

    Probabilities are held at 1e-6 and above, so that one row that was ruled out costs at most 13.8, not infinity.

    Returns:
        ``[n]``.
    """
    return -np.log(np.clip(probs[np.arange(len(gold)), gold], _LOWEST_PROBABILITY, 1.0))


def brier_scores(probs: Floats, gold: Ints) -> Floats:
    """Per row, ``sum_l (p[l] - [l = gold])^2``: 0 is perfect, 2 is certain and wrong. (Brier 1950, all labels.)

    Returns:
        ``[n]``.
    """
    return np.square(probs - np.eye(probs.shape[1])[gold]).sum(axis=1)


def ranked_probability_scores(probs: Floats, gold: Ints) -> Floats:
    """Per row, ``sum_{k<L} (P[k] - [gold <= k])^2 / (L - 1)`` with P the cumulated distribution (Epstein 1969).

    For ordered labels: mass one grade off costs less than mass far off. 0 is perfect, 1 is certain and at the wrong
    end. Use :func:`brier_scores` where labels have no order.

    Returns:
        ``[n]``.
    """
    grades = np.arange(probs.shape[1])
    reached = (gold[:, None] <= grades[None, :]).astype(float)
    return np.square(np.cumsum(probs, axis=1) - reached)[:, :-1].sum(axis=1) / (probs.shape[1] - 1)


def calibration_bin(confidence: Floats, *, bins: int = CALIBRATION_BINS) -> Ints:
    """The equal-width bin of each confidence: bin b holds ``b / bins < confidence <= (b + 1) / bins``, 0 the first."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def binned(
    confidence: Floats, correct: Floats, *, weight: Floats | None = None, bins: int = CALIBRATION_BINS
) -> Binned:
    """Sums weight, confidence and correctness by :func:`calibration_bin`.

    Args:
        confidence: ``[n]``, probability of the predicted label.
        correct: ``[n]``, 1 where the prediction is right.
        weight: ``[n]``.
        bins: Bins of equal width over 0 to 1.
    """
    weight = np.ones(len(confidence)) if weight is None else weight
    place = calibration_bin(confidence, bins=bins)
    columns = (weight, weight * confidence, weight * correct)
    return Binned(*(np.bincount(place, weights=column, minlength=bins).astype(float) for column in columns))


def expected_calibration_error(bins: Binned) -> Floats:
    """Mean gap between how sure and how right, over bins of the predicted label's confidence.

    ``ECE = sum_b (n_b / n) |mean confidence_b - accuracy_b|`` with 15 bins of equal width unless told (Guo et al.
    2017, "On Calibration of Modern Neural Networks"). It depends on the bins and is biased upward on few rows; the
    Brier score and log loss are not.

    Args:
        bins: Sums, ``[..., bins]``.
    """
    return _ratio(np.abs(bins.confidence - bins.correct).sum(axis=-1), bins.weight.sum(axis=-1))


def _ratio(above: Floats, below: Floats) -> Floats:
    above, below = np.asarray(above, float), np.asarray(below, float)
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 0)
