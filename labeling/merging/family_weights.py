r"""Teachers weighed by how they err together and by how well they agree with other families. No human label is needed.

**Dependence.** Errors correlate by :math:`\rho_w` within a family and :math:`\rho_b` between families, see
:mod:`distill.labeling.merging.dependence`. For such errors the weights that leave the least variance are
:math:`\Sigma^{-1} s`, with :math:`s` the skills; a family of :math:`m` teachers gets in all

.. math:: w_f \propto \frac{\sum_{j \in f} s_j}{1 + (m - 1) \rho'}, \qquad \rho' = \frac{\rho_w - \rho_b}{1 - \rho_b}

Copies (:math:`\rho' = 1`) share one vote, as in ``family_vote``; siblings that err no more alike than strangers count
one by one, as in ``majority``. Where no family has two teachers that judged the same rows, it is taken for 1.

**Skill.** What a teacher says of a row is compared with the mean of what all *other* families say of it; its agreement
:math:`A_j` is the mean of :math:`\sum_l p_j(l) \, p_{-f}(l)`, drawn to the average teacher as ``prior_rows`` rows
would. On :math:`K` labels it is worth :math:`s_j = \log ((K - 1) A_j / (1 - A_j))`. Agreement ranks teachers well and
reads 9 to 15 points too high, so that only ratios of skills are used, and none is less than a quarter of the average.
With fewer than three families nothing tells who is right, and all skills are the same.

**Near ties.** The weights are estimates. On a panel of two, two, one and one, siblings that err a little more alike
than strangers already lose every tie against two singles, though nothing says that they should. A label that trails the
first by less than half of what an average vote of the row puts between its first and its second label is as probable as
the first; of such labels, which get equal shares, the one that most teachers gave wins, then the more frequent one.
"""

from __future__ import annotations

import numpy as np

from distill.labeling.merging.aggregate_config import WeightedFamilyVoteConfig
from distill.labeling.merging.dependence import PanelDependence, estimate_dependence
from distill.labeling.merging.merged import Merged, winners
from distill.labeling.merging.panel import Panel

_LEAST_OF_MEAN = 0.25


def weighted_family_vote(panel: Panel, config: WeightedFamilyVoteConfig) -> Merged:
    """Averages the teachers' distributions by weights that their agreement alone tells."""
    judged, hard = panel.judgments, panel.hard_judgments
    skill = teacher_skills(panel, prior_rows=config.prior_rows)[judged.voter]
    if judged.weight is not None:
        skill = skill * judged.weight
    family = _family_places(panel)
    members = np.bincount(family, minlength=len(panel.family_opinions.row))[family]
    weight = skill / (1 + (members - 1) * kinship(estimate_dependence(panel)))
    share = weight / panel.sum_by_row(judged.row, weight)[judged.row]
    probs = panel.sum_by_row(judged.row, judged.probs * share[:, None])
    probs = even_near_ties(probs, config.least_lead * _vote_worth(panel))
    label, tie = winners(probs, panel.sum_by_row(hard.row, hard.probs))
    of_family = np.bincount(family, weights=share, minlength=len(panel.family_opinions.row))
    return Merged(probs, label, tie, of_family)


def even_near_ties(probs: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Gives the labels that trail the first by less than ``margin`` the same share, their mean.

    Args:
        probs: Distributions, shape (rows, labels).
        margin: Of each row, at least 0, shape (rows,).
    """
    top = probs.max(axis=1, keepdims=True)
    near = (probs > top - margin[:, None]) | (probs == top)
    mean = (probs * near).sum(axis=1, keepdims=True) / near.sum(axis=1, keepdims=True)
    return np.where(near, mean, probs)


def _vote_worth(panel: Panel) -> np.ndarray:
    """What an average vote of a row moves between two labels where all weigh the same, shape (rows,)."""
    judged = panel.judgments
    two = np.partition(judged.probs, -2, axis=1)[:, -2:]
    votes = np.bincount(judged.row, minlength=len(panel.row_ids))
    lead = np.bincount(judged.row, weights=two[:, 1] - two[:, 0], minlength=len(panel.row_ids))
    result: np.ndarray = lead / np.maximum(votes, 1) ** 2
    return result


def kinship(dependence: PanelDependence) -> float:
    """Error correlation within a family beyond that between families, in [0, 1]; 1 where it is not seen."""
    if dependence.within is None or dependence.between >= 1:
        return 1.0
    return min(max((dependence.within - dependence.between) / (1 - dependence.between), 0.0), 1.0)


def teacher_skills(panel: Panel, *, prior_rows: float) -> np.ndarray:
    """Skill of each teacher, their mean being one, shape (teachers,)."""
    judged, opinions = panel.judgments, panel.family_opinions
    teachers, labels = len(panel.teachers), len(panel.labels)
    total = panel.sum_by_row(opinions.row, opinions.probs)
    others = np.bincount(opinions.row, minlength=len(panel.row_ids))[judged.row] - 1
    shared = others > 0
    if len(panel.families) < 3 or not shared.any():
        return np.ones(teachers)
    own = opinions.probs[_family_places(panel)]
    rest = (total[judged.row] - own)[shared] / others[shared, None]
    agreed = (rest * judged.probs[shared]).sum(axis=1)
    rows = np.bincount(judged.voter[shared], minlength=teachers).astype(np.float64)
    found = np.bincount(judged.voter[shared], weights=agreed, minlength=teachers)
    agreement = (found + prior_rows * agreed.mean()) / np.maximum(rows + prior_rows, 1e-12)
    agreement = np.clip(agreement, 1e-3, 1 - 1e-3)
    skill = np.log((labels - 1) * agreement / (1 - agreement))
    skill = np.maximum(skill, _LEAST_OF_MEAN * max(float(skill.mean()), 1e-3))
    return skill / skill.mean()


def _family_places(panel: Panel) -> np.ndarray:
    """The family opinion that each judgment belongs to, shape (judgments,)."""
    judged, opinions, families = panel.judgments, panel.family_opinions, len(panel.families)
    key = judged.row * families + panel.family_of[judged.voter]
    return np.searchsorted(opinions.row * families + opinions.voter, key)
