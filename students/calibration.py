"""Temperature scaling: makes a student's probabilities mean what they say."""

from __future__ import annotations

import math

import numpy as np

_LOWEST, _HIGHEST = 0.05, 20.0


def softmax(logits: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """``exp(z / T) / sum exp(z / T)`` by row, in float64.

    Args:
        logits: ``[N, K]``.
        temperature: Above 1 flattens, below 1 sharpens; the most probable label stays the same.
    """
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def log_loss(logits: np.ndarray, target: np.ndarray, *, temperature: float, weight: np.ndarray) -> float:
    """``sum_i w_i * -sum_k t_ik * log softmax(z_i / T)_k / sum_i w_i``."""
    scaled = logits.astype(np.float64) / temperature
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return float((weight * -(target * log_probs).sum(axis=-1)).sum() / weight.sum())


def fit_temperature(logits: np.ndarray, target: np.ndarray, *, weight: np.ndarray | None = None) -> float:
    """The temperature of least log loss (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    The log loss is convex in ``1 / T``, so that the one minimum is found by bounded search over ``log T``.

    Args:
        logits: ``[N, K]`` on rows that the student has not learned from.
        target: ``[N, K]``, one-hot for gold labels.
        weight: ``[N]``; ones where it is None.

    Returns:
        A temperature between 0.05 and 20; 1 for no rows.
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    if len(logits) == 0:
        return 1.0
    weights = np.ones(len(logits)) if weight is None else weight
    found = minimize_scalar(
        lambda log_t: log_loss(logits, target, temperature=math.exp(log_t), weight=weights),
        bounds=(math.log(_LOWEST), math.log(_HIGHEST)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(math.exp(found.x))
