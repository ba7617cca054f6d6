"""Votes of several teachers merged into one label a row.

Methods are functions of a :class:`~distill.labeling.panel.Panel`, listed in :data:`METHODS`; everything that does not
depend on the method (effective votes, confidence, the trace that is kept) is worked out here for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import polars as pl

from distill.labeling.dependence import PanelDependence, estimate_dependence
from distill.labeling.errors import DataError
from distill.labeling.panel import Panel
from distill.labeling.traces import UNFIT

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

_TIED = 1e-9


@dataclass(frozen=True)
class Merged:
    """What a method makes of a panel. Rows without a vote hold zeros.

    Attributes:
        probs: Distribution of each row, shape (rows, labels).
        label: Index of the merged label, shape (rows,).
        tie: Whether another label was as probable, shape (rows,).
        share: Weight of each of ``panel.family_opinions`` in its row, summing to one a row, shape (opinions,).
    """

    probs: np.ndarray
    label: np.ndarray
    tie: np.ndarray
    share: np.ndarray


Method = Callable[[Panel], Merged]


def majority(panel: Panel) -> Merged:
    """One hard vote a teacher, families or not.

    ``probs`` are shares of the teachers; one that was sampled several times gives each label the share of its samples.
    Of labels that are equally frequent the one with the greatest mean probability wins, then the first of the set.
    """
    hard, soft = panel.hard_judgments, panel.judgments
    counts = panel.sum_by_row(hard.row, hard.probs)
    per_row = np.bincount(hard.row, minlength=len(panel.row_ids))
    probs = counts / np.maximum(per_row, 1)[:, None]
    label, tie = _winners(probs, panel.sum_by_row(soft.row, soft.probs))
    family = panel.family_of[hard.voter]
    families = len(panel.families)
    _, members = np.unique(hard.row * families + family, return_counts=True)
    return Merged(probs, label, tie, members / per_row[panel.family_opinions.row])


def family_vote(panel: Panel) -> Merged:
    """One share a family: distributions are averaged over a teacher's samples, a family's teachers, then families.

    Models that share ancestry err together, so that ten of one family are heard no louder than one of another. Of
    labels that are equally probable the one that most teachers gave wins, then the first of the set.
    """
    opinions, hard = panel.family_opinions, panel.hard_judgments
    per_row = np.bincount(opinions.row, minlength=len(panel.row_ids))
    probs = panel.sum_by_row(opinions.row, opinions.probs) / np.maximum(per_row, 1)[:, None]
    label, tie = _winners(probs, panel.sum_by_row(hard.row, hard.probs))
    return Merged(probs, label, tie, 1.0 / per_row[opinions.row])


METHODS: Mapping[str, Method] = MappingProxyType({"majority": majority, "family_vote": family_vote})
"""Methods by the name that a recipe gives them."""


def aggregate(
    votes: pl.DataFrame,
    *,
    labels: Sequence[str],
    method: str = "family_vote",
    ordered: bool = False,
    dependence: PanelDependence | None = None,
) -> pl.DataFrame:
    r"""Merges votes into labels.

    The effective number of votes of a row is Kish's, for errors that correlate by :math:`\rho` between families and
    wholly within one; a family has the share :math:`a_f` of the row's weight:

    .. math:: n_{eff} = 1 \Big/ \Big(\rho + (1 - \rho) \sum_f a_f^2\Big)

    With one share a family that is :math:`F / (1 + (F - 1) \rho)`. The confidence is the merged probability drawn
    towards how frequent the label is over all, :math:`\pi`, as a Dirichlet prior of strength :math:`k` would:

    .. math:: confidence = (n_{eff} \, p + k \, \pi) / (n_{eff} + k)

    :math:`\rho` and :math:`k` come from how the panel agrees, see :mod:`distill.labeling.dependence`; both rest on
    assumptions that only human labels can check. It orders rows and discounts unanimity; it is no accuracy.

    Args:
        votes: At least ``row_id``, ``teacher`` and ``label``; see :meth:`Panel.from_votes` for what else is used.
        labels: The label set, in the order of the distributions.
        method: A key of :data:`METHODS`.
        ordered: Whether the labels are grades; for methods that make use of it (these two do not).
        dependence: How the panel's errors hang together, where that is known better than from these votes.

    Returns:
        The columns of :data:`LABEL_SCHEMA`, a line for every row of ``votes``, in order of appearance. A row without
        any labeled vote has ``label``, ``probs``, ``trace`` and ``clauses`` null, ``confidence``, ``n_eff`` and
        ``votes`` 0. The trace is that of the labeled vote which agrees and finds the label most probable, of those that
        have one and of these first of those without ``trace_problems``; ``clauses`` are that vote's. A trace that
        contradicts its label, or was written for a label that its teacher was given, is never kept.

    Raises:
        DataError: The method is unknown, a column is missing, the table is empty, or a label or distribution is wrong.
    """
    if method not in METHODS:
        raise DataError(f"aggregate.type: no method {method!r}; there are {', '.join(METHODS)}")
    panel = Panel.from_votes(votes, labels, ordered=ordered)
    merged = METHODS[method](panel)
    dependence = dependence or estimate_dependence(panel)
    row = panel.family_opinions.row
    concentration = panel.sum_by_row(row, merged.share**2)
    counts = np.bincount(panel.row, minlength=len(panel.row_ids))
    has_votes = counts > 0
    rho = dependence.between
    n_eff = np.where(has_votes, 1.0 / (rho + (1.0 - rho) * np.where(has_votes, concentration, 1.0)), 0.0)
    frequency = merged.probs[has_votes].mean(axis=0) if has_votes.any() else np.zeros(len(labels))
    strength = dependence.prior_strength
    top = merged.probs[np.arange(len(counts)), merged.label]
    confidence = np.where(has_votes, (n_eff * top + strength * frequency[merged.label]) / (n_eff + strength), 0.0)
    known = pl.Series(has_votes)
    table = pl.DataFrame(
        {
            "row_id": panel.row_ids,
            "label": pl.Series(labels, dtype=pl.String).gather(merged.label).set(~known, None),
            "probs": pl.Series(merged.probs).arr.to_list(),
            "confidence": confidence,
            "n_eff": n_eff,
            "votes": counts,
            "tie": merged.tie & has_votes,
        }
    ).with_columns(pl.when(known).then(pl.col("probs")).alias("probs"))
    kept = _kept_traces(votes, panel, merged.label)
    return table.with_columns(kept).select(pl.col(name).cast(dtype) for name, dtype in LABEL_SCHEMA.items())


def _winners(probs: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most probable label of each row, ties broken by ``second`` and then by order; and whether there was a tie."""
    tied = probs >= probs.max(axis=1, keepdims=True) - _TIED
    among = np.where(tied, second, -np.inf)
    label = (among >= among.max(axis=1, keepdims=True) - _TIED).argmax(axis=1)
    return label, tied.sum(axis=1) > 1


def _kept_traces(votes: pl.DataFrame, panel: Panel, label: np.ndarray) -> list[pl.Series]:
    """Trace, its teacher and clauses of each row; where there is a trace, the clauses are those of its vote."""
    agrees = np.flatnonzero(panel.label == label[panel.row])
    unfit, flawed = _trace_flaws(votes, panel)
    trace = _surest_with("trace", votes, panel, agrees[~unfit[agrees]], after=flawed)
    clauses = np.where(trace >= 0, trace, _surest_with("clauses", votes, panel, agrees))
    return [
        _gathered(votes, "trace", panel, trace, pl.String()),
        _gathered(votes, "teacher", panel, trace, pl.String()).alias("trace_teacher"),
        _gathered(votes, "clauses", panel, clauses, pl.List(pl.String())),
    ]


def _trace_flaws(votes: pl.DataFrame, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Whether each vote's trace must not be kept, and whether another one is better."""
    none = np.zeros(len(panel.position), dtype=bool)
    if "trace_problems" not in votes.columns or not len(none):
        return none, none
    problems = votes["trace_problems"].gather(panel.position).cast(pl.List(pl.String))
    unfit = problems.list.set_intersection(sorted(UNFIT)).list.len() > 0
    return unfit.fill_null(False).to_numpy(), (problems.list.len() > 0).fill_null(False).to_numpy()


def _surest_with(
    name: str, votes: pl.DataFrame, panel: Panel, agrees: np.ndarray, *, after: np.ndarray | None = None
) -> np.ndarray:
    """For each row, of the agreeing votes that have a value the one that finds its label most probable; -1 for none.

    A bare label states no certainty, so it comes after those that do. Those in ``after`` come after all others.
    """
    best = np.full(len(panel.row_ids), -1)
    some = agrees[_has_text(votes, name, panel.position)[agrees]]
    if len(some):
        probability = np.where(panel.stated[some], panel.probs[some, panel.label[some]], -1.0)
        late = np.zeros(len(some)) if after is None else after[some]
        order = some[np.lexsort((-probability, late, panel.row[some]))]
        rows = panel.row[order]
        first = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
        best[rows[first]] = order[first]
    return best


def _has_text(votes: pl.DataFrame, name: str, position: np.ndarray) -> np.ndarray:
    if name not in votes.columns:
        return np.zeros(len(position), dtype=bool)
    column = votes[name].gather(position)
    filled = column.list.len() > 0 if isinstance(column.dtype, pl.List) else column.cast(pl.String).str.len_bytes() > 0
    return filled.fill_null(False).to_numpy()


def _gathered(votes: pl.DataFrame, name: str, panel: Panel, at: np.ndarray, dtype: pl.DataType) -> pl.Series:
    """Values of some votes, null where ``at`` is -1."""
    if name not in votes.columns or not len(panel.position):
        return pl.Series(name, [None] * len(at), dtype=dtype)
    positions = pl.Series(np.where(at >= 0, panel.position[at], 0))
    return votes[name].gather(positions.set(pl.Series(at < 0), None)).cast(dtype).alias(name)
