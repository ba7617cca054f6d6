r"""Distances between two distributions over the same cells, under the names that the field gives them.

Each takes shares ``[..., K]`` that sum to one over the last axis, the reference first, so that one call scores the two
sets and every exchange of their groups.
"""

from __future__ import annotations

import numpy as np

from distill.eval.metrics import Floats

PSI_FLOOR = 1e-4
"""An empty cell would make PSI infinite; as is usual, it counts as this share."""


def population_stability(reference: Floats, current: Floats) -> Floats:
    r"""Population stability index: :math:`\sum_k (q_k - p_k) \ln (q_k / p_k)`, cells floored at :data:`PSI_FLOOR`.

    The usual reading (below 0.1 nothing, above 0.25 much) is for large sets: on few groups chance alone passes 0.25.
    """
    p, q = _floored(reference), _floored(current)
    found: Floats = ((q - p) * np.log(q / p)).sum(axis=-1)
    return found


def jensen_shannon(reference: Floats, current: Floats) -> Floats:
    r"""Jensen-Shannon divergence in bits, 0 to 1: mean of both sets' Kullback-Leibler divergence from their mean.

    Lin 1991, "Divergence measures based on the Shannon entropy". Its square root is a metric.
    """
    middle = 0.5 * (reference + current)
    found: Floats = 0.5 * (_relative_entropy(reference, middle) + _relative_entropy(current, middle))
    return found


def kolmogorov_smirnov(reference: Floats, current: Floats) -> Floats:
    """Largest difference of the cumulative shares, 0 to 1; the cells are in order."""
    found: Floats = np.abs(np.cumsum(current - reference, axis=-1)).max(axis=-1)
    return found


def total_variation(reference: Floats, current: Floats) -> Floats:
    """Share of the rows that would have to change their cell to make the two alike, 0 to 1."""
    found: Floats = 0.5 * np.abs(current - reference).sum(axis=-1)
    return found


def area_under_curve(reference: Floats, current: Floats) -> Floats:
    """Chance that a current row lies in a higher cell than a reference row, ties half; 0.5 where they are alike."""
    below = np.cumsum(reference, axis=-1) - 0.5 * reference
    found: Floats = (current * below).sum(axis=-1)
    return found


def _floored(shares: Floats) -> Floats:
    raised = np.maximum(shares, PSI_FLOOR)
    result: Floats = raised / raised.sum(axis=-1, keepdims=True)
    return result


def _relative_entropy(shares: Floats, other: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(shares > 0, shares * np.log2(shares / other), 0.0)
    result: Floats = terms.sum(axis=-1)
    return result
