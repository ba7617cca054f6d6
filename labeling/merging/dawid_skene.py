r"""Dawid–Skene: what each voter's confusions are, learned without labels. For crowds of people who err on their own.

Three readings of the confusions, each with a prior so that a voter with few votes is taken for the usual voter:

- ``full``: one confusion matrix a voter. :math:`\theta_{jkl} = (C_{jkl} + s\,m_{kl}) / \sum_{l'} (C_{jkl'} +
  s\,m_{kl'})`, with :math:`m` the confusions of all voters together (themselves drawn to the diagonal) and :math:`s`
  the prior's strength in votes of each true label. :math:`s = 0` is the method of 1979.
- ``one_coin``: voter :math:`j` is right with probability :math:`a_j` and errs evenly.
- ``by_distance``: the labels are grades, and a miss is less likely the farther it is:
  :math:`\theta_{jkl} \propto e^{-\lambda_j |k - l|}`.

Do not use it on a panel of language models: they err together, and it takes what they share for the truth (39% right
while 99% sure on 33 judges); use ``family_vote`` there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distill.labeling.merging.aggregate_config import DawidSkeneConfig
from distill.labeling.merging.confusion_em import ReadConfusions, VoteMatrix, fit_confusions
from distill.labeling.merging.merged import Merged, posterior_merged
from distill.labeling.merging.panel import Panel

_MOST_DECAY = 20.0
_BISECTIONS = 40


def dawid_skene(panel: Panel, config: DawidSkeneConfig) -> Merged:
    """Merges by Dawid–Skene.

    Args:
        panel: The votes; only labels are read, a teacher's samples count as shares of one vote.
        config: Which confusions, and how strong the prior is.
    """
    matrix = VoteMatrix.of(panel)
    read = confusion_reader(config, labels=len(panel.labels), ordered=panel.ordered)
    # Weights multiply evidence and counts alike; dividing both by the temperature is believing in fewer votes.
    if config.temperature != 1:
        matrix = replace(
            matrix, votes=matrix.votes / config.temperature, transposed=matrix.transposed / config.temperature
        )
    fitted = fit_confusions(matrix, read, steps=config.steps, tolerance=config.tolerance)
    return posterior_merged(panel, fitted.posterior, fitted.prior)


def confusion_reader(config: DawidSkeneConfig, *, labels: int, ordered: bool) -> ReadConfusions:
    """How confusions are read from counts; ``auto`` is ``by_distance`` for more than two grades, else ``full``.

    Args:
        config: The section; its ``prior`` is the strength that confusions are drawn with.
        labels: How many labels there are.
        ordered: Whether they are grades.
    """
    confusions = config.confusions
    if confusions == "auto":
        confusions = "by_distance" if ordered and labels > 2 else "full"
    if confusions == "one_coin":
        return lambda counts: one_coin_confusions(counts, strength=config.prior)
    if confusions == "by_distance":
        return lambda counts: distance_confusions(counts, strength=config.prior)
    return lambda counts: full_confusions(counts, strength=config.prior)


def full_confusions(counts: np.ndarray, *, strength: float) -> np.ndarray:
    """One confusion matrix a voter, drawn to that of all voters as ``strength`` votes of each true label would.

    Args:
        counts: Expected counts of true label and vote by voter, shape (voters, labels, labels).
        strength: Of the prior, in votes; 0 is none.

    Returns:
        Chances of each vote given the true label, shape (voters, labels, labels); each line sums to 1.
    """
    labels = counts.shape[1]
    pooled = counts.sum(axis=0) + np.eye(labels)
    pooled /= pooled.sum(axis=1, keepdims=True)
    drawn = counts + max(strength, 0.0) * pooled
    total = drawn.sum(axis=2, keepdims=True)
    # Without a prior a voter that never met a label says nothing about it.
    return np.where(total > 0, drawn / np.where(total > 0, total, 1.0), 1.0 / labels)


def one_coin_confusions(counts: np.ndarray, *, strength: float) -> np.ndarray:
    """Right with one probability whatever the label, wrong evenly; drawn to the average voter.

    Args:
        counts: As in :func:`full_confusions`.
        strength: As there.

    Returns:
        As there, with one value on each voter's diagonal and one beside it.
    """
    labels = counts.shape[1]
    right = np.trace(counts, axis1=1, axis2=2)
    total = counts.sum(axis=(1, 2))
    usual = (right.sum() + 1.0) / (total.sum() + 2.0)
    accuracy = (right + strength * usual) / np.maximum(total + strength, 1e-12)
    found = np.repeat(((1 - accuracy) / (labels - 1))[:, None, None], labels, axis=1).repeat(labels, axis=2)
    found[:, np.arange(labels), np.arange(labels)] = accuracy[:, None]
    return found


def distance_confusions(counts: np.ndarray, *, strength: float) -> np.ndarray:
    r"""Misses that fade with distance, :math:`\theta_{jkl} \propto e^{-\lambda_j |k - l|}`; drawn to the average voter.

    The likelihood is greatest where the expected distance equals the one counted; it falls in :math:`\lambda`, so that
    halving finds it.

    Args:
        counts: As in :func:`full_confusions`, of grades in their order.
        strength: As there.

    Returns:
        As there.
    """
    labels = counts.shape[1]
    grades = np.arange(labels)
    distance = np.abs(grades[:, None] - grades[None, :]).astype(np.float64)
    pooled = counts.sum(axis=0, keepdims=True)
    usual = _fading(_decay(pooled + np.eye(labels), distance), distance)
    of_label = pooled.sum(axis=2) / max(float(pooled.sum()), 1e-12)
    drawn = counts + strength * of_label[:, :, None] * usual
    return _fading(_decay(drawn, distance), distance)


def _decay(counts: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The decay that fits counts best, shape (voters,)."""
    of_label, counted = counts.sum(axis=2), (counts * distance).sum(axis=(1, 2))
    low, high = np.zeros(len(counts)), np.full(len(counts), _MOST_DECAY)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        expected = (of_label * (_fading(middle, distance) * distance).sum(axis=2)).sum(axis=1)
        too_far = expected > counted
        low, high = np.where(too_far, middle, low), np.where(too_far, high, middle)
    return (low + high) / 2


def _fading(decay: np.ndarray, distance: np.ndarray) -> np.ndarray:
    found = np.exp(-decay[:, None, None] * distance)
    return found / found.sum(axis=2, keepdims=True)
