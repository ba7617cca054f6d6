"""Which method fits a panel, and a word to whoever asked for one that does not."""

from __future__ import annotations

import numpy as np

from distill.labeling.merging.aggregate_config import (
    DawidSkeneConfig,
    LabelModelConfig,
    MergeSettings,
    WeightedFamilyVoteConfig,
)
from distill.labeling.merging.dependence import PanelDependence
from distill.labeling.merging.panel import Panel

INDEPENDENCE_MODELS = ("majority", "dawid_skene", "mace", "glad")
"""Methods that take voters for independent of each other given the label."""
CROWD_VOTERS = 20
"""Voters without a known family that make a crowd; a panel of language models is seldom as large."""
FREE_CORRELATION = 0.2
"""Error correlation up to which voters pass for independent. Crowds of people showed 0.06 to 0.13, LLMs 0.22 to 0.4."""
_ONE_SIDED_SHARE = 0.9
_LEAST_RULES = 4
_FAR_BELOW = 0.6


class PanelDependenceWarning(UserWarning):
    """A method that takes voters for independent was asked for on a panel that is not."""


def choose_method(panel: Panel, dependence: PanelDependence) -> MergeSettings:
    """The method that ``auto`` stands for.

    ``label_model`` where nine in ten votes are of voters that only ever give one label; ``dawid_skene`` for a crowd:
    voters without families, that are many or do not err together; ``weighted_family_vote`` for every other panel.
    """
    if is_one_sided(panel):
        return LabelModelConfig()
    return DawidSkeneConfig() if is_crowd(panel, dependence) else WeightedFamilyVoteConfig()


def is_one_sided(panel: Panel) -> bool:
    """Whether nearly all votes come from at least four voters that only ever give one label, not all the same."""
    labels = len(panel.labels)
    given = np.bincount(panel.teacher * labels + panel.label, minlength=len(panel.teachers) * labels)
    given = given.reshape(-1, labels)
    single = (given > 0).sum(axis=1) == 1
    kinds = given[single].any(axis=0).sum()
    enough = single.sum() >= _LEAST_RULES and kinds > 1
    return bool(enough and given[single].sum() >= _ONE_SIDED_SHARE * given.sum())


def is_crowd(panel: Panel, dependence: PanelDependence) -> bool:
    """Whether voters stand alone, and are many or were seen to err on their own."""
    alone = len(panel.families) == len(panel.teachers)
    free = dependence.source != "assumed" and dependence.between <= FREE_CORRELATION
    return alone and (len(panel.teachers) >= CROWD_VOTERS or free)


def dependence_warning(method: str, panel: Panel, dependence: PanelDependence, *, n_eff: float) -> str | None:
    """What to say where ``method`` takes voters for independent that are not; None where it is fine.

    Args:
        method: Its name.
        panel: The votes.
        dependence: How they hang together.
        n_eff: Mean effective votes of a row.
    """
    if method not in INDEPENDENCE_MODELS or is_crowd(panel, dependence) or not len(panel.row):
        return None
    per_row = len(panel.judgments.row) / len(np.unique(panel.judgments.row))
    if per_row < 2 or n_eff >= _FAR_BELOW * per_row:
        return None
    instead = "label_model" if is_one_sided(panel) else "weighted_family_vote or family_vote"
    return (
        f"aggregate.type: {method} takes voters for independent, but the {per_row:.1f} votes of a row are worth "
        f"{n_eff:.1f} (errors correlate by {dependence.between:.2f} between {dependence.families} families); "
        f"what they get wrong together it takes for the truth; use {instead}"
    )
