"""Confident learning: which given labels are likely wrong (Northcutt, Jiang and Chuang 2021, JAIR 70).

A cheap model, trained on other groups, judges every row; how often it is *confident* of another label than the given
one estimates how many rows of each label are another; so many of them, the most clearly contradicted, are issues.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from distill.labeling.errors import StudentError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

_BUCKETS = 2**16


def out_of_fold_probs(table: pl.DataFrame, *, inputs: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """What a logistic regression on the DCN's features, trained on the other folds' groups, thinks of each row.

    It learns the targets' top labels: these are what is doubted.

    Args:
        table: ``group``, the inputs, ``target`` and ``weight``.
        inputs: The query's column, then the listing's.
        folds: Parts of the groups.
        seed: Seed of the parts.

    Returns:
        ``[N, K]``.

    Raises:
        StudentError: Fewer groups than two.
    """
    groups, codes = np.unique(table["group"].to_numpy(), return_inverse=True)
    folds = min(folds, len(groups))
    if folds < 2:
        raise StudentError(f"prune: rows are judged by other groups' rows, got {len(groups)} group; leave prune out")
    fold = (np.random.default_rng(seed).permutation(len(groups)) % folds)[codes]
    features = _features(table, inputs)
    target = np.array(table["target"].to_list())
    weight = table["weight"].to_numpy()
    probs = np.zeros_like(target)
    for number in range(folds):
        held = fold == number
        probs[held] = _fitted(features[~held], target[~held], weight[~held], features[held])
    return probs


def confident_joint(given: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Counts of rows by given and confidently suspected label (equation 1), scaled to the given labels (equation 3).

    A row counts as label j where ``probs_j`` reaches the mean that rows given j have, the greatest of those that do.

    Args:
        given: ``[N]`` int.
        probs: ``[N, K]``, out of fold.

    Returns:
        ``[K, K]``; line i sums to how often label i is given.
    """
    size = probs.shape[1]
    counts = np.bincount(given, minlength=size)
    threshold = np.array([probs[given == k, k].mean() if counts[k] else np.inf for k in range(size)])
    reaching = np.where(probs >= threshold, probs, -np.inf)
    sure = np.isfinite(reaching).any(axis=1)
    joint = np.zeros((size, size))
    np.add.at(joint, (given[sure], reaching[sure].argmax(axis=1)), 1.0)
    lines = joint.sum(axis=1, keepdims=True)
    joint = np.where(lines > 0, joint / np.where(lines > 0, lines, 1.0), np.eye(size))
    scaled: np.ndarray = joint * counts[:, None]
    return scaled


def label_issues(given: np.ndarray, probs: np.ndarray, *, most: float) -> np.ndarray:
    """Rows to leave out, by noise rate (section 3.2, method 4).

    For each pair of labels ``i``, ``j``: the ``round(joint_ij)`` rows given i with the greatest ``probs_j - probs_i``,
    where that is above 0.

    Args:
        given: ``[N]`` int.
        probs: ``[N, K]``, out of fold.
        most: Share of the rows, at most; the least contradicted of the issues stay then. One row of each label stays.

    Returns:
        ``[N]`` bool.
    """
    joint = confident_joint(given, probs)
    contradicted = np.full(len(given), -np.inf)
    for i, j in zip(*np.nonzero(joint), strict=True):
        rows = np.flatnonzero(given == i)
        if i == j:
            continue
        margin = probs[rows, j] - probs[rows, i]
        worst = np.argsort(-margin, kind="stable")[: math.floor(joint[i, j] + 0.5)]
        worst = worst[margin[worst] > 0]
        contradicted[rows[worst]] = np.maximum(contradicted[rows[worst]], margin[worst])
    for i in np.unique(given):
        rows = np.flatnonzero(given == i)
        if np.isfinite(contradicted[rows]).all():
            contradicted[rows[contradicted[rows].argmin()]] = -np.inf
    order = np.argsort(-contradicted, kind="stable")[: math.floor(most * len(given))]
    issues = np.zeros(len(given), dtype=bool)
    issues[order[np.isfinite(contradicted[order])]] = True
    return issues


def _features(table: pl.DataFrame, inputs: Sequence[str]) -> csr_matrix:
    """The DCN's hashed features, each row's of length one, and its numbers: sparse ``[N, found buckets + dense]``."""
    from scipy.sparse import csr_matrix, hstack

    from distill.students.features import hash_rows

    hashed = hash_rows(table, inputs=inputs, buckets=_BUCKETS)
    ids = [np.unique(np.concatenate(slots)) for slots in hashed.slots]
    lengths = np.array([len(part) for part in ids])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    # Only buckets that occur: the solver's time goes by columns, and most of them are empty.
    found, columns = np.unique(np.concatenate(ids), return_inverse=True)
    values = np.repeat(1.0 / np.sqrt(np.maximum(lengths, 1)), lengths)
    sparse = csr_matrix((values, columns, starts), shape=(table.height, len(found)))
    return hstack([sparse, csr_matrix(hashed.dense.astype(np.float64))], format="csr")


def _fitted(features: csr_matrix, target: np.ndarray, weight: np.ndarray, judged: csr_matrix) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    given = target.argmax(axis=1)
    probs = np.zeros((judged.shape[0], target.shape[1]))
    if len(np.unique(given)) < 2:
        probs[:, given[0]] = 1.0
        return probs
    model = LogisticRegression(C=1.0, max_iter=100, tol=1e-3)
    model.fit(features, given, sample_weight=weight)
    probs[:, model.classes_] = model.predict_proba(judged)
    return probs
