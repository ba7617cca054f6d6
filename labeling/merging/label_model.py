r"""Labeling functions that mostly abstain and each know one label: a label model that keeps all classes.

A rule that only ever says *spam* says so whatever the truth is, so that its confusion matrix (and with it Dawid–Skene)
learns nothing from it: what it tells is *that* it spoke. What is learned of rule :math:`j` and label :math:`l` is its
precision :math:`a_{jl}`, and what a firing is worth is how far that lifts the label above its frequency :math:`\pi_l`:

.. math::
    P(k \mid \text{votes}) \propto \pi_k \prod_{j: l_j = k} \frac{a_{jk}}{1 - a_{jk}} \Big/ \frac{\pi_k}{1 - \pi_k}

Nothing is read from a rule's silence: rules are written to speak of what they know, and silence on the rest says
little. Anchors hold the model. :math:`\pi` stays what it is told, or halfway between even and the shares of the votes:
were it estimated again and again, the class of the loudest rules would take all. A rule that fires on a share
:math:`c` of all rows is right at most on the :math:`\pi_l` of them that are :math:`l`, so that :math:`a_{jl} \le \pi_l
/ c`; loudness is worth little. And precisions are drawn to the average rule by ``prior_votes`` votes, learned only
where a rule meets another one (alone, it proves itself right), and a firing never speaks against its own label.
At last, each label keeps half of the frequency that it is told, or of its share of the votes where that is less.

After Ratner et al., "Snorkel: rapid training data creation with weak supervision", VLDB 2017, where overlaps are
solved for by matrix completion instead of EM.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distill.labeling.errors import DataError
from distill.labeling.merging.aggregate_config import LabelModelConfig
from distill.labeling.merging.confusion_em import ReadConfusions, VoteMatrix, fit_confusions, normalised
from distill.labeling.merging.merged import Merged, posterior_merged
from distill.labeling.merging.panel import Panel

USUAL_PRECISION = 0.75
"""Precision of a rule of which nothing is known, as strong as 100 votes."""
_ANCHOR_VOTES = 100.0
_MOST_PRECISION = 0.97
_KEPT = 0.5


def label_model(panel: Panel, config: LabelModelConfig) -> Merged:
    """Merges abstaining, one-sided rules."""
    matrix = VoteMatrix.of(panel)
    # Only a vote beside another teaches anything: alone, a rule proves itself right.
    beside = np.diff(matrix.votes.indptr) > 1
    matrix = replace(matrix, weight=np.where(beside, matrix.weight, 0.0))
    balance = label_balance(panel, config.balance)
    given = matrix.transposed.sum(axis=1)
    coverage = np.asarray(given).reshape(matrix.voters, matrix.labels) / max(_voted_rows(panel), 1)
    read = precision_reader(balance, coverage, strength=config.prior_votes)
    # Every rule starts as precise as any other: from the votes' shares the loud class would start, and stay, ahead.
    alike = read(np.zeros((matrix.voters, matrix.labels, matrix.labels)))
    start = normalised(np.log(balance) + matrix.evidence(alike))[0]
    shares = (matrix.weight @ matrix.shares()) / max(float(matrix.weight.sum()), 1.0)
    floor = _KEPT * (np.minimum(balance, shares) if config.balance is None else balance)
    fitted = fit_confusions(
        matrix, read, steps=config.steps, tolerance=config.tolerance, prior=balance, start=start, floor=floor
    )
    return posterior_merged(panel, fitted.posterior, balance)


def label_balance(panel: Panel, known: tuple[float, ...] | None) -> np.ndarray:
    """Label frequencies that the posteriors are anchored at, shape (labels,).

    Args:
        panel: The votes.
        known: Shares by label, in the panel's order, where they are known; they need not sum to 1. Else the votes' own,
            half drawn towards even ones.

    Raises:
        DataError: Not one share above 0 for each label.
    """
    labels = len(panel.labels)
    if known is not None:
        given = np.asarray(known, dtype=np.float64)
        if len(given) != labels or (given <= 0).any():
            raise DataError(
                f"aggregate.balance: got {list(known)}; give one share above 0 a label: {list(panel.labels)}"
            )
        return given / given.sum()
    hard = panel.hard_judgments
    if not len(hard.row):
        return np.full(labels, 1.0 / labels)
    per_row = panel.sum_by_row(hard.row, hard.probs)
    per_row = per_row[per_row.sum(axis=1) > 0]
    seen = (per_row / per_row.sum(axis=1, keepdims=True)).mean(axis=0)
    return (seen + 1.0 / labels) / 2


def precision_reader(balance: np.ndarray, coverage: np.ndarray, *, strength: float) -> ReadConfusions:
    """What a firing is worth, from expected counts.

    Args:
        balance: Label frequencies, shape (labels,).
        coverage: Share of the rows on which a voter gives a label, shape (voters, labels).
        strength: Votes by which a precision is drawn to the average rule's.

    Returns:
        A function to lifts of shape (voters, labels, labels): on the diagonal how much more often the vote is given
        where it is right than where it is wrong, 1 elsewhere.
    """
    at_most = np.where(coverage > 0, balance / np.maximum(coverage, 1e-12), 1.0)
    odds = balance / (1 - balance)

    def read(counts: np.ndarray) -> np.ndarray:
        labels = counts.shape[1]
        right, total = counts[:, np.arange(labels), np.arange(labels)], counts.sum(axis=1)
        usual = (right.sum() + _ANCHOR_VOTES * USUAL_PRECISION) / (total.sum() + _ANCHOR_VOTES)
        precision = (right + strength * usual) / np.maximum(total + strength, 1e-12)
        precision = np.clip(np.minimum(precision, at_most), 0.0, _MOST_PRECISION)
        lifts = np.ones_like(counts)
        lifts[:, np.arange(labels), np.arange(labels)] = np.maximum(precision / (1 - precision) / odds, 1.0)
        return lifts

    return read


def _voted_rows(panel: Panel) -> int:
    return len(np.unique(panel.row))
