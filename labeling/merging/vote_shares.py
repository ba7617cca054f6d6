"""Labels by counting: one vote a teacher, or one share a family."""

from __future__ import annotations

import numpy as np

from distill.labeling.merging.aggregate_config import FamilyVoteConfig, MajorityConfig
from distill.labeling.merging.merged import Merged, teacher_shares, winners
from distill.labeling.merging.panel import Opinions, Panel


def majority(panel: Panel, _config: MajorityConfig | None = None) -> Merged:
    """One hard vote a teacher, families or not.

    ``probs`` are shares of the teachers; one that was sampled several times gives each label the share of its samples.
    Of labels that are equally frequent the one with the greatest mean probability wins, then the first of the set.
    """
    hard, soft = panel.hard_judgments, panel.judgments
    label, tie = winners(probs := _mean(panel, hard), panel.sum_by_row(soft.row, soft.probs))
    return Merged(probs, label, tie, teacher_shares(panel))


def family_vote(panel: Panel, _config: FamilyVoteConfig | None = None) -> Merged:
    """One share a family: distributions are averaged over a teacher's samples, a family's teachers, then families.

    Models that share ancestry err together, so that ten of one family are heard no louder than one of another. Of
    labels that are equally probable the one that most teachers gave wins, then the first of the set.
    """
    opinions, hard = panel.family_opinions, panel.hard_judgments
    label, tie = winners(probs := _mean(panel, opinions), panel.sum_by_row(hard.row, hard.probs))
    weight = _weights(opinions)
    return Merged(probs, label, tie, weight / panel.sum_by_row(opinions.row, weight)[opinions.row])


def _mean(panel: Panel, opinions: Opinions) -> np.ndarray:
    """Mean distribution of each row by the opinions' weights, shape (rows, labels)."""
    weight = _weights(opinions)
    probs = opinions.probs if opinions.weight is None else opinions.probs * weight[:, None]
    total = panel.sum_by_row(opinions.row, weight)
    return panel.sum_by_row(opinions.row, probs) / np.where(total > 0, total, 1.0)[:, None]


def _weights(opinions: Opinions) -> np.ndarray:
    return np.ones(len(opinions.row)) if opinions.weight is None else opinions.weight
