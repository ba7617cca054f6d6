r"""What one more family would bring, and how much a panel is worth label by label.

Under errors that correlate by :math:`\rho` between families, :math:`F` families are worth :math:`n(F) = F / (1 + (F -
1) \rho)` independent votes, never more than :math:`1 / \rho`. What a gain in votes means for quality is told by the
usual normal approximation: a voter right with probability :math:`a` makes a panel that is right with about
:math:`\Phi(\sqrt{n} \, \Phi^{-1}(a))`. Where people's labels are missing :math:`a` is agreement with the other
families, which reads 9 to 15 points too high, so that only the *order* of the advice is to be used then.

Agreement is a sign of skill only where errors are apart: a family that copies another agrees with it on every row and
knows nothing more. So a pair's agreement counts for :math:`1 - \max(\rho_{ij}, 0)`, with :math:`\rho_{ij}` the
correlation of their errors: a copy is judged by the families that it does not copy, and brings no votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import polars as pl

from distill.labeling.merging.dependence import panel_dependence

_LEAST_ROWS = 20


def dependence_by_label(
    votes: pl.DataFrame, *, labels: Sequence[str], gold: pl.DataFrame | None = None
) -> pl.DataFrame:
    """How far a panel errs together, label by label.

    Args:
        votes: As for :func:`distill.labeling.merging.aggregate.aggregate`.
        labels: The label set.
        gold: ``row_id`` and ``gold`` of rows that people labeled; rows are sorted by these, else by the merged label.

    Returns:
        ``label``, ``rows``, ``between`` (error correlation between families), ``n_eff`` (effective votes of a row) and
        ``source``; a line a label. With fewer than 20 rows ``between`` and ``n_eff`` are null.
    """
    from distill.labeling.merging.aggregate import aggregate

    if gold is None:
        truth = aggregate(votes, labels=labels).select("row_id", truth="label")
    else:
        truth = gold.select(pl.col("row_id").cast(pl.String), pl.col("gold").cast(pl.String).alias("truth"))
    marked = votes.with_columns(pl.col("row_id").cast(pl.String)).join(truth, on="row_id")
    lines: list[tuple[str, int, float | None, float | None, str]] = []
    for label in labels:
        part = marked.filter(pl.col("truth") == label).drop("truth")
        rows = part["row_id"].n_unique()
        if rows < _LEAST_ROWS:
            lines.append((label, rows, None, None, "assumed"))
            continue
        found = panel_dependence(part, labels=labels, gold=gold)
        lines.append((label, rows, found.between, found.n_eff, found.source))
    names = {"label": pl.String, "rows": pl.Int64, "between": pl.Float64, "n_eff": pl.Float64, "source": pl.String}
    return pl.DataFrame(lines, schema=names, orient="row")


def next_family(votes: pl.DataFrame, *, labels: Sequence[str], candidates: Sequence[str]) -> pl.DataFrame:
    """Which family to add, most worth first.

    Args:
        votes: Votes of the panel and, on some rows, of the candidates (a pilot).
        labels: The label set.
        candidates: Families among ``votes`` that are not in the panel yet.

    Returns:
        ``family``, ``error_correlation`` (mean with the panel's families), ``agreement`` (with them, each by how far
        errors are apart), ``n_eff_gain`` and ``expected_gain`` (of accuracy, as a share; below 0 for one that mostly
        repeats another); a line a candidate, best first.
    """
    family = pl.coalesce([*(["family"] if "family" in votes.columns else []), "teacher"]).cast(pl.String)
    votes = votes.with_columns(family.alias("family"))
    present = votes.filter(~pl.col("family").is_in(list(candidates)))
    panel = panel_dependence(present, labels=labels)
    inside = panel.pairs.filter(pl.col("family_a") != pl.col("family_b"))
    usual = _apart_agreement(inside, panel.between)
    before = _joined(panel.families, panel.between, None)
    lines = []
    for name in candidates:
        # One at a time: two candidates that copy each other would vouch for each other.
        found = panel_dependence(pl.concat([present, votes.filter(pl.col("family") == name)]), labels=labels)
        others = found.pairs.filter((pl.col("family_a") == name) != (pl.col("family_b") == name))
        rho = _mean(others["error_correlation"].fill_null(panel.between))
        rho = panel.between if rho is None else rho
        agreement = _apart_agreement(others, panel.between)
        single = (agreement or 0.0) if usual is None else usual
        agreement = single if agreement is None else agreement
        gain = _joined(panel.families, panel.between, rho) - before
        joined = (panel.families * single + agreement) / (panel.families + 1)
        lines.append((name, rho, agreement, gain, _accuracy(joined, before + gain) - _accuracy(single, before)))
    names = ["family", "error_correlation", "agreement", "n_eff_gain", "expected_gain"]
    return pl.DataFrame(lines, schema=names, orient="row").sort("expected_gain", "family", descending=[True, False])


def _apart_agreement(pairs: pl.DataFrame, between: float) -> float | None:
    """Mean agreement of pairs, each by one less its error correlation (``between`` where that is not seen)."""
    rho = pairs["error_correlation"].fill_null(between).to_numpy()
    weight = 1.0 - np.clip(rho, 0.0, 1.0)
    agreement = pairs["agreement"].to_numpy()
    if not weight.sum() > 1e-9:
        return None
    return float(weight @ agreement / weight.sum())


def _joined(families: int, between: float, rho: float | None) -> float:
    """Kish's effective votes of equal shares, with one more family that correlates by ``rho`` where it is given."""
    pairs = families * (families - 1) * between
    if rho is None:
        return families**2 / (families + pairs)
    return (families + 1) ** 2 / (families + 1 + max(pairs + 2 * families * rho, 0.0))


def _mean(values: pl.Series) -> float | None:
    found = values.cast(pl.Float64).drop_nulls().to_numpy()
    found = found[np.isfinite(found)]
    return float(found.mean()) if len(found) else None


def _accuracy(single: float, votes: float) -> float:
    normal = NormalDist()
    return normal.cdf(votes**0.5 * normal.inv_cdf(min(max(single, 1e-6), 1 - 1e-6)))
