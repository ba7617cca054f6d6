r"""Rank metrics by query: nDCG and precision at k, each with its interval over queries.

A query's rows are put in order of the gain that the predictor expects of each, :math:`\sum_l p_l \, g_l`, which is the
order of the highest expected DCG (Li, Burges and Wu 2007, "McRank"). Ties share the mean of the places that they take
(McSherry and Najork 2008, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
Scores", ECIR), so that no number rests on the order of a file.

Only rows with gold are ranked, as "condensed lists" do (Sakai 2007): where a part of a query is judged, the figures are
those of that part. Queries with fewer than k such rows are in no figure at k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distill.eval.intervals import Estimate, Resamples, ratio_estimates
from distill.eval.metrics import Floats, Ints
from distill.labeling.task import Task

CUTOFFS = (1, 5, 10)
RANK_METRICS = tuple(f"{name}@{k}" for name in ("ndcg", "precision") for k in CUTOFFS)
"""Names of all of them, in the order in which they are shown."""
_FEWEST_QUERIES = 2


class Judged(NamedTuple):
    """Rows with gold, to be put in order within their query.

    Attributes:
        gold: ``[n]``, index of the true label.
        probs: ``[n, L]``.
        group: ``[n]``, the query as an index.
        weight: ``[n]``; a query counts as the mean weight of its rows.
    """

    gold: Ints
    probs: Floats
    group: Ints
    weight: Floats


def gains_of(task: Task) -> Floats:
    r"""What a row of each label is worth to a shopper, ``[L]``.

    Ordered labels, best first, are grades :math:`L - 1, \ldots, 0` with gain :math:`2^{grade} - 1` (Burges et al. 2005,
    "Learning to Rank Using Gradient Descent"). Where labels have no order the positive one is worth 1, the rest 0.
    """
    if task.ordered:
        return np.exp2(np.arange(len(task.labels) - 1.0, -1.0, -1.0)) - 1.0
    return np.array([1.0 if label == task.positive else 0.0 for label in task.labels])


def ndcg(scores: Floats, gains: Floats, *, k: int) -> float:
    r"""nDCG at k of one query (Järvelin and Kekäläinen 2002).

    :math:`DCG = \sum_{i \le k} g_i / \log_2(i + 1)`, over that of the best order. NaN where no row has any gain, since
    then every order is as good.

    Args:
        scores: ``[n]``, higher first.
        gains: ``[n]``.
        k: Places that count.
    """
    discount = _discount(len(scores), k)
    best = float(np.sort(gains)[::-1] @ discount)
    return float(_in_order(scores, gains) @ discount) / best if best > 0 else float("nan")


def precision(scores: Floats, positive: Floats, *, k: int) -> float:
    """Share of positive rows (``[n]``, 0 or 1) among the first ``k`` of one query with at least as many rows."""
    return float(_in_order(scores, positive)[:k].mean())


def rank_estimates(judged: Judged, *, task: Task, resamples: Resamples, level: float) -> dict[str, Estimate]:
    """Means over queries of the metrics that enough queries have rows for.

    Args:
        judged: The rows.
        task: The labels; without an order and a positive label there is nothing to rank by.
        resamples: Of the rows' groups: ``group`` are its codes.
        level: Coverage that intervals aim at.

    Returns:
        By name of :data:`RANK_METRICS`, each with the number of queries in ``groups``.
    """
    if not task.ordered and task.positive is None:
        return {}
    by_query = _by_query(judged, task)
    first = np.unique(judged.group, return_index=True)[1]
    weight = np.bincount(judged.group, weights=judged.weight) / np.maximum(np.bincount(judged.group), 1)
    found = {}
    for name, values in by_query.items():
        counted = np.isfinite(values)
        if counted.sum() < _FEWEST_QUERIES:
            continue
        # One line a query, put on its first row: the resamples are of groups, and a query is one.
        at = judged.group[first]
        above, below = np.zeros((2, len(judged.gold), 1))
        above[first, 0] = np.where(counted[at], np.nan_to_num(values[at]) * weight[at], 0.0)
        below[first, 0] = np.where(counted[at], weight[at], 0.0)
        found[name] = ratio_estimates(above, below, resamples, level=level)[0]
    return found


def _by_query(judged: Judged, task: Task) -> dict[str, Floats]:
    """Each metric of each query, NaN where the query has too few rows or nothing to find."""
    gains = gains_of(task)
    truth, expected = gains[judged.gold], judged.probs @ gains
    names = [name for name in RANK_METRICS if task.positive is not None or name.startswith("ndcg")]
    values = {name: np.full(int(judged.group.max()) + 1, np.nan) for name in names}
    place = task.positive_index
    match = np.zeros(len(truth)) if place is None else (judged.gold == place).astype(float)
    sure = expected if place is None else judged.probs[:, place]
    order = np.argsort(judged.group, kind="stable")
    starts = np.flatnonzero(np.diff(judged.group[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        query = judged.group[rows[0]]
        for k in CUTOFFS:
            if len(rows) < max(k, 2):
                continue
            values[f"ndcg@{k}"][query] = ndcg(expected[rows], truth[rows], k=k)
            if place is not None:
                values[f"precision@{k}"][query] = precision(sure[rows], match[rows], k=k)
    return values


def _in_order(scores: Floats, worth: Floats) -> Floats:
    """What each place is worth: rows by descending score, tied ones sharing their mean."""
    order = np.argsort(-scores, kind="stable")
    ties = np.cumsum(np.diff(-scores[order], prepend=-np.inf) > 0) - 1
    mean = np.bincount(ties, weights=worth[order]) / np.bincount(ties)
    shared: Floats = mean[ties]
    return shared


def _discount(places: int, k: int) -> Floats:
    ranks = np.arange(1, places + 1)
    found: Floats = np.where(ranks <= k, 1.0 / np.log2(ranks + 1), 0.0)
    return found
