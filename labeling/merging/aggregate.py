"""Votes of several teachers merged into one label a row.

Methods are functions of a :class:`~distill.labeling.merging.panel.Panel`, listed in :data:`METHODS`; everything that
does not depend on the method (effective votes, confidence, the trace that is kept) is worked out here for all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.category_tree import CategoryTree
from distill.labeling.errors import DataError
from distill.labeling.merging.aggregate_config import MergeSettings, merge_settings
from distill.labeling.merging.clause_weights import clause_weights
from distill.labeling.merging.confusion_em import normalised
from distill.labeling.merging.dawid_skene import dawid_skene
from distill.labeling.merging.dependence import PanelDependence, estimate_dependence
from distill.labeling.merging.family_weights import weighted_family_vote
from distill.labeling.merging.glad import glad
from distill.labeling.merging.kept_traces import AgreeingVotes
from distill.labeling.merging.label_model import label_model
from distill.labeling.merging.mace import mace
from distill.labeling.merging.merge_calibration import calibrated
from distill.labeling.merging.merge_choice import PanelDependenceWarning, choose_method, dependence_warning
from distill.labeling.merging.merged import Merged
from distill.labeling.merging.panel import Panel
from distill.labeling.merging.student_vote import student_probs, with_student
from distill.labeling.merging.tree_votes import label_from_top, spread_branches
from distill.labeling.merging.vote_shares import family_vote, majority

LABEL_SCHEMA: dict[str, pl.DataType] = {
    "row_id": pl.String(),
    "label": pl.String(),
    "probs": pl.List(pl.Float64()),
    "confidence": pl.Float64(),
    "n_eff": pl.Float64(),
    "votes": pl.Int32(),
    "tie": pl.Boolean(),
    "trace": pl.String(),
    "trace_teacher": pl.String(),
    "clauses": pl.List(pl.String()),
}
"""Columns of ``labels.parquet``, in order."""

Method = Callable[[Panel, Any], Merged]
"""A method, of a panel and its own settings."""
MethodLike = str | Mapping[str, Any] | MergeSettings
"""A method by its name, or its settings as a recipe gives them."""


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "majority": majority,
        "family_vote": family_vote,
        "weighted_family_vote": weighted_family_vote,
        "dawid_skene": dawid_skene,
        "mace": mace,
        "glad": glad,
        "label_model": label_model,
    }
)
"""Methods by the name that a recipe gives them."""


class Merging(NamedTuple):
    """Merged labels, and what there is to say of them.

    Attributes:
        labels: The columns of :data:`LABEL_SCHEMA`, a line a row.
        method: The method used; what ``auto`` stood for.
        dependence: How the panel hangs together.
        warning: Why the method does not suit the panel; None where it does.
    """

    labels: pl.DataFrame
    method: str
    dependence: PanelDependence
    warning: str | None


def aggregate(
    votes: pl.DataFrame,
    *,
    labels: Sequence[str],
    method: MethodLike = "family_vote",
    ordered: bool = False,
    dependence: PanelDependence | None = None,
    gold: pl.DataFrame | None = None,
    predictions: pl.DataFrame | None = None,
) -> pl.DataFrame:
    r"""Merges votes into labels.

    The effective number of votes of a row is Kish's, for errors that correlate by :math:`\rho` between families and
    wholly within one; a family has the share :math:`a_f` of the row's weight:

    .. math:: n_{eff} = 1 \Big/ \Big(\rho + (1 - \rho) \sum_f a_f^2\Big)

    With one share a family that is :math:`F / (1 + (F - 1) \rho)`. The confidence is the merged probability drawn
    towards how frequent the label is over all, :math:`\pi`, as a Dirichlet prior of strength :math:`k` would:

    .. math:: confidence = (n_{eff} \, p + k \, \pi) / (n_{eff} + k)

    :math:`\rho` and :math:`k` come from how the panel agrees, see :mod:`distill.labeling.merging.dependence`; both rest
    on assumptions that only human labels can check. It orders rows and discounts unanimity; it is no accuracy.

    Methods that multiply evidence (``dawid_skene``, ``mace``, ``glad``, ``label_model``) count each of a row's
    :math:`n` votes in full. Their evidence is discounted to that of :math:`n_{eff}` votes, :math:`t = n_{eff} / n`:
    ``probs`` are :math:`q^t`, normalised, and :math:`p` above is :math:`\pi^{1-t} q^t`, normalised.

    Args:
        votes: At least ``row_id``, ``teacher`` and ``label``; see :meth:`Panel.from_votes` for what else is used.
        labels: The label set, in the order of the distributions.
        method: A key of :data:`METHODS`, ``auto``, or settings as in a recipe's ``aggregate`` section.
        ordered: Whether the labels are grades; ``dawid_skene`` makes use of it.
        dependence: How the panel's errors hang together, where that is known better than from these votes.
        gold: ``row_id``, ``gold`` and, where there are, ``group`` of a few rows that people labeled: they calibrate
            ``probs`` and ``confidence``, see :mod:`distill.labeling.merging.merge_calibration`. Labels stay.
        predictions: ``row_id`` and ``probs`` of a student, out of fold, which joins the vote; see
            :mod:`distill.labeling.merging.student_vote`.

    Returns:
        The columns of :data:`LABEL_SCHEMA`, a line for every row of ``votes``, in order of appearance. A row without
        any labeled vote has ``label``, ``probs``, ``trace`` and ``clauses`` null, ``confidence``, ``n_eff`` and
        ``votes`` 0. The trace is that of the labeled vote which agrees and finds the label most probable, of those that
        have one and of these first of those without ``trace_problems``; ``clauses`` are that vote's. A trace that
        contradicts its label, or was written for a label that its teacher was given, is never kept.

    Raises:
        DataError: The method is unknown, a column is missing, the table is empty, or a label or distribution is wrong.

    Warns:
        PanelDependenceWarning: The method takes voters for independent, and the panel is far from it.
    """
    found = merge(
        votes, labels=labels, method=method, ordered=ordered, dependence=dependence, gold=gold, predictions=predictions
    )
    if found.warning is not None:
        warnings.warn(found.warning, PanelDependenceWarning, stacklevel=2)
    return found.labels


def merge(
    votes: pl.DataFrame,
    *,
    labels: Sequence[str] | CategoryTree,
    method: MethodLike = "family_vote",
    ordered: bool = False,
    dependence: PanelDependence | None = None,
    gold: pl.DataFrame | None = None,
    predictions: pl.DataFrame | None = None,
) -> Merging:
    """Does what :func:`aggregate` does and says how; a warning is a value.

    Where ``labels`` are a tree, votes may also be for its branches, and labels are found from the top: see
    :mod:`distill.labeling.merging.tree_votes`.
    """
    settings = merge_settings(method)
    _check_given(settings, gold, predictions)
    tree = labels if isinstance(labels, CategoryTree) else None
    labels = tuple(labels) if not isinstance(labels, CategoryTree) else labels.labels
    votes = votes if tree is None else spread_branches(votes, tree)
    panel = Panel.from_votes(votes, labels, ordered=ordered)
    if settings.clause_agreement:
        panel = replace(panel, weight=clause_weights(votes, panel, strength=settings.clause_agreement))
    dependence = dependence or estimate_dependence(panel)
    if settings.type == "auto":
        chosen = choose_method(panel, dependence)
        settings = chosen.model_copy(update={"clause_agreement": settings.clause_agreement})
    merged = METHODS[settings.type](panel, settings)
    if predictions is not None:
        merged = with_student(panel, merged, student_probs(panel, predictions))
    if tree is not None:
        label, tie = label_from_top(merged.probs, tree)
        merged = replace(merged, label=label, tie=tie)
    n_eff = _effective_votes(panel, merged, dependence)
    probs, confidence = _stated(panel, merged, n_eff, dependence)
    if gold is not None:
        probs, confidence = calibrated(panel, merged.label, probs, confidence, gold=gold)
    voted = n_eff > 0
    known = pl.Series(voted)
    table = pl.DataFrame(
        {
            "row_id": panel.row_ids,
            "label": pl.Series(labels, dtype=pl.String).gather(merged.label).set(~known, None),
            "probs": pl.Series(probs).arr.to_list(),
            "confidence": confidence,
            "n_eff": n_eff,
            "votes": np.bincount(panel.row, minlength=len(n_eff)),
            "tie": merged.tie & voted,
        }
    ).with_columns(pl.when(known).then(pl.col("probs")).alias("probs"))
    kept = _kept_traces(votes, panel, merged.label)
    table = table.with_columns(kept).select(pl.col(name).cast(dtype) for name, dtype in LABEL_SCHEMA.items())
    mean_n_eff = float(n_eff[voted].mean()) if voted.any() else 0.0
    warning = dependence_warning(settings.type, panel, dependence, n_eff=mean_n_eff)
    return Merging(table, settings.type, dependence, warning)


def _check_given(settings: MergeSettings, gold: pl.DataFrame | None, predictions: pl.DataFrame | None) -> None:
    """A recipe's stage finds gold and trains the student; here they are tables."""
    for name, wanted, given, argument in (
        ("gold", bool(settings.gold_splits), gold, "gold"),
        ("student", settings.student is not None, predictions, "predictions"),
    ):
        if wanted and given is None:
            raise DataError(f"aggregate.{name}: is a recipe's setting; from Python give {argument}= as a table")


def _effective_votes(panel: Panel, merged: Merged, dependence: PanelDependence) -> np.ndarray:
    """Kish's effective votes of each row, 0 where there is no vote."""
    concentration = panel.sum_by_row(panel.family_opinions.row, merged.share**2)
    rho = dependence.between
    voted = concentration > 0
    return np.where(voted, 1.0 / (rho + (1.0 - rho) * np.where(voted, concentration, 1.0)), 0.0)


def _stated(
    panel: Panel, merged: Merged, n_eff: np.ndarray, dependence: PanelDependence
) -> tuple[np.ndarray, np.ndarray]:
    """Distributions and confidences, discounted for what the votes of a row share."""
    voted = n_eff > 0
    places = np.arange(len(n_eff))
    probs, top = merged.probs, merged.probs[places, merged.label]
    if merged.prior is None:
        frequency = merged.probs[voted].mean(axis=0) if voted.any() else np.zeros(len(panel.labels))
    else:
        frequency = merged.prior
        votes = np.bincount(panel.judgments.row, minlength=len(n_eff))
        temper = np.where(voted, n_eff / np.maximum(votes, 1), 1.0)[:, None]
        log = np.log(np.maximum(merged.probs, 1e-300))
        drawn = normalised(temper * log + (1 - temper) * np.log(frequency))[0]
        top = drawn[places, merged.label]
        probs = np.where(voted[:, None], normalised(temper * log)[0], 0.0)
    strength = dependence.prior_strength
    confidence = np.where(voted, (n_eff * top + strength * frequency[merged.label]) / (n_eff + strength), 0.0)
    return probs, confidence


def _kept_traces(votes: pl.DataFrame, panel: Panel, label: np.ndarray) -> list[pl.Series]:
    """Trace, its teacher and clauses of each row; where there is a trace, the clauses are those of its vote.

    A bare label states no certainty, so it comes after those that do.
    """
    agrees = np.flatnonzero(panel.label == label[panel.row])
    probability = np.where(panel.stated[agrees], panel.probs[agrees, panel.label[agrees]], -1.0)
    agreeing = AgreeingVotes(votes, panel.position[agrees], panel.row[agrees], probability, len(panel.row_ids))
    flaws = agreeing.flaws()
    trace = agreeing.surest_with("trace", among=~flaws.unfit, after=flaws.flawed)
    clauses = np.where(trace >= 0, trace, agreeing.surest_with("clauses"))
    return agreeing.kept(trace, clauses)
