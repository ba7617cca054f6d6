r"""A few rows that people labeled bring the stated confidence near to how often the merged label is right.

The confidence :math:`c` of the merged label is mapped by beta calibration (Kull, Silva Filho and Flach, AISTATS 2017),

.. math:: \operatorname{logit} c' = a \log c - b \log(1 - c) + d

fitted by Newton's method to whether the label was right on the gold rows. A Gaussian prior draws :math:`(a, b, d)` to
:math:`(1, 1, 0)`, which leaves :math:`c` as it is: two gold rows change little, two hundred decide. Where ``group``
names kinds of rows (a task's slices), each with gold of its own is fitted once more, drawn to the map of all rows.

``probs`` follow: the label gets :math:`c'`, the others share the rest as before; where that would make another label
more probable than the merged one it is held just at the top, so that ``probs`` and ``label`` never contradict each
other.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.merging.panel import Panel

_PRIOR_SD = np.array([0.5, 0.5, 1.0])
_IDENTITY = np.array([1.0, 1.0, 0.0])
_STEPS = 50
_LEAST = 1e-4
_LEAST_OF_GROUP = 10


def calibrated(
    panel: Panel, label: np.ndarray, probs: np.ndarray, confidence: np.ndarray, *, gold: pl.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Distributions and confidences after calibration on gold rows.

    Args:
        panel: The votes.
        label: Merged label of each row, shape (rows,).
        probs: Merged distributions, shape (rows, labels).
        confidence: Of each label, 0 for rows without a vote, shape (rows,).
        gold: ``row_id``, ``gold`` and, where there are, ``group``. Rows of other tables and labels outside the set are
            left aside.

    Raises:
        DataError: A column is missing.
    """
    missing = [name for name in ("row_id", "gold") if name not in gold.columns]
    if missing:
        raise DataError(f"gold: missing column(s) {missing}, got {gold.columns}; give row_id and gold")
    gold = gold.with_columns(pl.col("row_id", "gold").cast(pl.String)).unique(
        "row_id", keep="first", maintain_order=True
    )
    found = panel.row_ids.to_frame("row_id").join(gold, on="row_id", how="left", maintain_order="left")
    codes = found["gold"].replace_strict(
        list(panel.labels), range(len(panel.labels)), default=-1, return_dtype=pl.Int64
    )
    truth = codes.fill_null(-1).to_numpy()
    usable = (truth >= 0) & (confidence > 0)
    features = _features(confidence)
    right = (truth == label).astype(np.float64)
    whole = fit_beta(features[usable], right[usable], towards=_IDENTITY)
    logit = features @ whole
    if "group" in gold.columns:
        group = found["group"].cast(pl.String).fill_null("").to_numpy()
        for name in np.unique(group[usable]):
            here = usable & (group == name)
            if here.sum() >= _LEAST_OF_GROUP:
                of_group = fit_beta(features[here], right[here], towards=whole)
                logit = np.where(group == name, features @ of_group, logit)
    stated = np.where(confidence > 0, 1 / (1 + np.exp(-logit)), 0.0)
    return _rescaled(probs, label, stated), stated


def fit_beta(features: np.ndarray, right: np.ndarray, *, towards: np.ndarray) -> np.ndarray:
    """The three coefficients, by Newton's method on the penalised log-likelihood, shape (3,).

    Args:
        features: ``log c``, ``-log(1 - c)`` and 1, shape (n, 3).
        right: Whether the label was right, shape (n,).
        towards: Where the prior draws to, shape (3,).
    """
    found = towards.astype(np.float64)
    pull = np.diag(1 / _PRIOR_SD**2)
    for _ in range(_STEPS):
        sure = 1 / (1 + np.exp(-features @ found))
        slope = features.T @ (right - sure) - pull @ (found - towards)
        bend = (features * (sure * (1 - sure))[:, None]).T @ features + pull
        step = np.linalg.solve(bend, slope)
        # The likelihood is concave; a long step overshoots where sure is near 0 or 1.
        found = found + step * min(1.0, 1.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return found


def _features(confidence: np.ndarray) -> np.ndarray:
    held = np.clip(confidence, _LEAST, 1 - _LEAST)
    return np.stack([np.log(held), -np.log1p(-held), np.ones(len(held))], axis=1)


def _rescaled(probs: np.ndarray, label: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """The label gets what is stated, or as much as keeps it on top; the others keep their ratios."""
    places = np.arange(len(label))
    others = probs.copy()
    others[places, label] = 0.0
    rest = others.sum(axis=1)
    even = np.where(probs.sum(axis=1) > 0, 1.0, 0.0) / max(probs.shape[1] - 1, 1)
    shares = np.where(rest[:, None] > 0, others / np.maximum(rest, 1e-300)[:, None], even[:, None])
    shares[places, label] = 0.0
    # c >= (1 - c) m, with m the greatest share of the others, is c >= m / (1 + m).
    most = shares.max(axis=1)
    top = np.maximum(stated, most / (1 + most))
    found = shares * (1 - top)[:, None]
    found[places, label] = np.where(stated > 0, top, 0.0)
    return np.where((stated > 0)[:, None], found, 0.0)
