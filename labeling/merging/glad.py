r"""GLAD: voters differ in ability, rows in difficulty. For crowds in which some rows are hard for everyone.

Voter :math:`j` of ability :math:`\alpha_j` is right on row :math:`i` of ease :math:`\beta_i = e^{b_i}` with probability

.. math:: s_{ij} = \sigma(\alpha_j \beta_i), \qquad \sigma(x) = 1 / (1 + e^{-x})

and errs evenly. Priors: :math:`\alpha_j \sim N(1, 1)`, :math:`b_i \sim N(0, 1)`, label frequencies estimated. The M
step is by Newton in turns: given the rows each ability is a convex problem of its own, and given the abilities each
row is one, so that all are solved at once.

Whitehill, Ruvolo, Wu, Bergsma and Movellan, "Whose vote should count more: optimal integration of labels from labelers
of unknown expertise", NeurIPS 2009.
"""

from __future__ import annotations

import numpy as np

from distill.labeling.merging.aggregate_config import GladConfig
from distill.labeling.merging.confusion_em import CLASS_COUNT, normalised
from distill.labeling.merging.merged import Merged, posterior_merged
from distill.labeling.merging.panel import Panel

_TURNS = 3
_MOST_EASE = 3.0


def glad(panel: Panel, config: GladConfig) -> Merged:
    """Merges by GLAD; of a teacher's samples the most frequent label counts."""
    hard = panel.hard_judgments
    rows, labels = len(panel.row_ids), len(panel.labels)
    given = hard.probs.argmax(axis=1)
    votes = _Votes(hard.row, hard.voter, given, np.ones(len(given)) if hard.weight is None else hard.weight)
    counts = panel.sum_by_row(hard.row, hard.probs)
    voted = counts.sum(axis=1) > 0
    posterior = np.where(voted[:, None], counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), 1 / labels)
    ability, ease = np.ones(len(panel.teachers)), np.zeros(rows)
    frequencies = np.full(labels, 1.0 / labels)
    for _ in range(config.steps):
        frequencies = posterior[voted].sum(axis=0) + CLASS_COUNT
        frequencies /= frequencies.sum()
        right = posterior[votes.row, votes.label]
        for _ in range(_TURNS):
            ability = _abilities(votes, right, ability, ease)
            ease = _eases(votes, right, ability, ease)
        moved = _posterior(votes, ability, ease, frequencies, rows=rows)
        change = np.abs(moved - posterior)[voted].sum() / max(int(voted.sum()), 1)
        posterior = moved
        if change < config.tolerance:
            break
    return posterior_merged(panel, posterior, frequencies)


class _Votes:
    """Hard votes: row, voter, label and weight, each of shape (n,)."""

    def __init__(self, row: np.ndarray, voter: np.ndarray, label: np.ndarray, weight: np.ndarray) -> None:
        self.row, self.voter, self.label, self.weight = row, voter, label, weight


def _posterior(
    votes: _Votes, ability: np.ndarray, ease: np.ndarray, frequencies: np.ndarray, *, rows: int
) -> np.ndarray:
    """The E step: a label gains the log-odds of a right vote over a vote wrong in one way."""
    labels = len(frequencies)
    # log s - log((1 - s) / (K - 1)), with log s - log(1 - s) = alpha * beta.
    gain = (ability[votes.voter] * np.exp(ease[votes.row]) + np.log(labels - 1)) * votes.weight
    logits = np.bincount(votes.row * labels + votes.label, weights=gain, minlength=rows * labels)
    return normalised(logits.reshape(rows, labels) + np.log(frequencies))[0]


def _abilities(votes: _Votes, right: np.ndarray, ability: np.ndarray, ease: np.ndarray) -> np.ndarray:
    """One Newton step on the abilities; the Gaussian prior keeps it bounded."""
    beta = np.exp(ease[votes.row])
    sure = _sigmoid(ability[votes.voter] * beta)
    slope = np.bincount(votes.voter, weights=votes.weight * (right - sure) * beta, minlength=len(ability))
    bend = np.bincount(votes.voter, weights=votes.weight * sure * (1 - sure) * beta**2, minlength=len(ability))
    step = (slope - (ability - 1.0)) / (bend + 1.0)
    return ability + np.clip(step, -1.0, 1.0)


def _eases(votes: _Votes, right: np.ndarray, ability: np.ndarray, ease: np.ndarray) -> np.ndarray:
    """One step on the log-eases, with the part of the curvature that is never negative (Fisher's)."""
    odds = ability[votes.voter] * np.exp(ease[votes.row])
    sure = _sigmoid(odds)
    slope = np.bincount(votes.row, weights=votes.weight * (right - sure) * odds, minlength=len(ease))
    bend = np.bincount(votes.row, weights=votes.weight * sure * (1 - sure) * odds**2, minlength=len(ease))
    step = (slope - ease) / (bend + 1.0)
    return np.clip(ease + np.clip(step, -1.0, 1.0), -_MOST_EASE, _MOST_EASE)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    found = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, found) / (1.0 + found)
