"""What a method makes of a panel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.labeling.merging.panel import Panel

_TIED = 1e-9


@dataclass(frozen=True)
class Merged:
    """What a method makes of a panel. Rows without a vote hold zeros.

    Attributes:
        probs: Distribution of each row, shape (rows, labels).
        label: Index of the merged label, shape (rows,).
        tie: Whether another label was as probable, shape (rows,).
        share: Weight of each of ``panel.family_opinions`` in its row, summing to one a row, shape (opinions,).
        prior: Frequency of each label where ``probs`` are posteriors, which weigh every vote as one that is
            independent of the others given the label, shape (labels,). None where they are shares of votes.
    """

    probs: np.ndarray
    label: np.ndarray
    tie: np.ndarray
    share: np.ndarray
    prior: np.ndarray | None = None


def winners(probs: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most probable label of each row, and whether there was a tie.

    Ties are broken by ``second``, then for the label that is more frequent over all rows (first of the set, were it the
    set's order alone that decided, would be favoured for no reason), then by order.
    """
    tied = probs >= probs.max(axis=1, keepdims=True) - _TIED
    among = np.where(tied, second, -np.inf)
    still = among >= among.max(axis=1, keepdims=True) - _TIED
    frequency = probs.sum(axis=0) / max(len(probs), 1)
    # Rounded, so that sums in another order do not decide between labels that are equally frequent.
    label = np.where(still, np.round(frequency, 9), -1.0).argmax(axis=1)
    return label, tied.sum(axis=1) > 1


def posterior_merged(panel: Panel, probs: np.ndarray, prior: np.ndarray) -> Merged:
    """The result of a method that works with posteriors: ties go to the label that more teachers gave.

    ``share`` counts teachers, as for the majority: what a method weighs a voter by differs from row to row.

    Args:
        panel: The votes.
        probs: Posteriors, shape (rows, labels); set to 0 where a row has no vote.
        prior: Label frequencies that they were anchored at, shape (labels,).
    """
    hard = panel.hard_judgments
    counts = panel.sum_by_row(hard.row, hard.probs)
    label, tie = winners(probs, counts)
    share = teacher_shares(panel)
    probs = np.where(counts.any(axis=1, keepdims=True), probs, 0.0)
    return Merged(probs, label, tie, share, prior)


def teacher_shares(panel: Panel) -> np.ndarray:
    """Share of a row's teachers that each family opinion stands for, shape (opinions,)."""
    hard = panel.hard_judgments
    weight = np.ones(len(hard.row)) if hard.weight is None else hard.weight
    opinions, families = panel.family_opinions, len(panel.families)
    key = hard.row * families + panel.family_of[hard.voter]
    place = np.searchsorted(opinions.row * families + opinions.voter, key)
    members = np.bincount(place, weights=weight, minlength=len(opinions.row))
    per_row = np.bincount(hard.row, weights=weight, minlength=len(panel.row_ids))
    return members / per_row[opinions.row]
