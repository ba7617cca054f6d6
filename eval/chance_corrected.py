r"""Agreement beyond chance of any number of judges, with any votes missing: alpha, kappa, AC1 and AC2.

All of them compare the agreement seen with that expected by chance, and differ in what chance is taken to be:
Krippendorff's alpha and Fleiss' kappa take the labels' frequencies, and so read low where one label rules however well
judges agree; Gwet's AC1 and AC2 do not. A report that shows one should show two.

Everything follows from how often each label was given to each row, so that judges may differ from row to row:

* :math:`n_{rl}`, judges that gave row *r* the label *l*; :math:`n_r` in all. Rows with fewer than two judges say
  nothing of agreement and count, where a definition says so, in the labels' frequencies only.
* :math:`w_{kl}`, how much of an agreement the labels *k* and *l* are: 1 on the diagonal. Identity for names;
  for grades, ``linear`` :math:`1 - |k - l| / (L - 1)` or ``quadratic`` :math:`1 - (k - l)^2 / (L - 1)^2`.

Intervals are by the bootstrap over groups of :mod:`distill.eval.intervals`. Sources: Krippendorff, "Content Analysis"
(4th ed., 2019), ch. 12; Fleiss (1971); Cohen (1968) for weights; Gwet, "Handbook of Inter-Rater Reliability" (4th ed.,
2014), ch. 2–5, whose extension to missing votes is used for all but alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, Size, estimate, undefined
from distill.eval.metrics import Floats
from distill.eval.scored import collapse_votes, label_indices
from distill.labeling.task import Task

Weights = Literal["identity", "linear", "quadratic"]
Level = Literal["nominal", "ordinal", "interval"]


class Reliability(Frozen):
    """How far a panel of judges agrees beyond chance. 0 is chance, 1 is complete, below 0 is worse than chance."""

    judges: int
    rows: int = Field(description="rows with at least two judges")
    agreement: Estimate = Field(description="share of pairs of judges of a row that gave it the same label")
    alpha: Estimate = Field(description="Krippendorff's alpha: nominal, or ordinal where labels are grades")
    kappa: Estimate = Field(description="Fleiss' kappa, quadratic weights where labels are grades")
    ac: Estimate = Field(description="Gwet's AC1, or AC2 with quadratic weights where labels are grades")
    ordered: bool


def label_counts(codes: Sequence[np.ndarray], *, labels: int) -> Floats:
    """``[R, L]``, how many judges gave each row each label.

    Args:
        codes: One array ``[R]`` a judge: index of the label, -1 without a vote.
        labels: How many labels there are.
    """
    counts = np.zeros((len(codes[0]) if codes else 0, labels))
    for given in codes:
        rows = np.flatnonzero(given >= 0)
        counts[rows, given[rows]] += 1.0
    return counts


def agreement_weights(labels: int, weights: Weights = "identity") -> Floats:
    """``[L, L]``, how much of an agreement each two labels are."""
    if weights == "identity" or labels < 2:
        return np.eye(labels)
    apart = np.abs(np.subtract.outer(np.arange(labels), np.arange(labels))) / (labels - 1)
    return 1.0 - (apart if weights == "linear" else apart**2)


def krippendorff_alpha(counts: Floats, *, level: Level = "nominal") -> float:
    r"""Krippendorff's alpha: one minus the disagreement seen over that expected.

    .. math:: \alpha = 1 - (n - 1) \frac{\sum_{ck} o_{ck} \delta^2_{ck}}{\sum_{ck} n_c n_k \delta^2_{ck}}, \quad
        o_{ck} = \sum_r \frac{n_{rc} (n_{rk} - [c = k])}{n_r - 1}

    over rows with two votes or more; :math:`n_c = \sum_k o_{ck}`, :math:`n = \sum_c n_c`. The difference
    :math:`\delta^2_{ck}` is 1 between any two names; :math:`(c - k)^2` for ``interval``; and for ``ordinal``
    :math:`\big(\sum_{g=c}^{k} n_g - (n_c + n_k) / 2\big)^2`, which counts the votes that lie between two grades.

    Args:
        counts: ``[R, L]``, from :func:`label_counts`.
        level: What labels are to each other.

    Returns:
        NaN where no row has two votes, or only one label was ever given.
    """
    return float(_alpha(_coincidences(counts).sum(axis=0)[None], level)[0])


def fleiss_kappa(counts: Floats, *, weights: Weights = "identity") -> float:
    r"""Fleiss' kappa for any number of judges a row, weighted for grades.

    :math:`(p_a - p_e) / (1 - p_e)` with :math:`p_a` of :func:`observed_agreement`,
    :math:`p_e = \sum_{kl} w_{kl} \pi_k \pi_l`, and :math:`\pi_k` the mean over rows of the share :math:`n_{rk} / n_r`.
    """
    return _beyond_chance(counts, weights, _chance_of_frequencies)


def gwet_ac(counts: Floats, *, weights: Weights = "identity") -> float:
    r"""Gwet's AC1 (AC2 with weights), which stays sensible where nearly all rows have one label.

    :math:`(p_a - p_e) / (1 - p_e)` with :math:`p_e = \frac{\sum_{kl} w_{kl}}{L (L - 1)} \sum_k \pi_k (1 - \pi_k)`.
    """
    return _beyond_chance(counts, weights, _chance_of_gwet)


def observed_agreement(counts: Floats, *, weights: Weights = "identity") -> float:
    r"""Mean over rows with two votes or more of :math:`\sum_k n_{rk} (\sum_l w_{kl} n_{rl} - 1) / (n_r (n_r - 1))`."""
    sums = _statistics(counts, agreement_weights(counts.shape[1], weights)).sum(axis=0)
    return float(sums[0] / sums[1]) if sums[1] else float("nan")


def panel_reliability(
    votes: pl.DataFrame, rows: pl.DataFrame, *, task: Task, config: EvalConfig | None = None, seed: int = 0
) -> Reliability:
    """Agreement beyond chance of all judges of a votes table together.

    Args:
        votes: ``row_id``, ``teacher``, ``label``; those whose ``outcome`` is not ``labeled`` are left out.
        rows: ``row_id`` and ``group``.
        task: Labels, and whether they are grades.
        config: Resamples and level of the intervals.
        seed: Of the resamples.

    Raises:
        DataError: A label is outside the set.
    """
    config = config or EvalConfig()
    said = collapse_votes(votes).join(rows.select("row_id", "group"), on="row_id", how="inner")
    codes = label_indices(said["label"], task, "votes")
    table = said.select("row_id", "group").with_columns(code=pl.Series(codes))
    wide = table.group_by("row_id", "group", maintain_order=True).agg(
        (pl.col("code") == code).sum().cast(pl.Float64).alias(str(code)) for code in range(len(task.labels))
    )
    counts = wide.select(str(code) for code in range(len(task.labels))).to_numpy()
    resamples = Resamples.of(wide["group"].to_numpy(), count=config.bootstrap, seed=seed)
    return reliability_of(
        counts, resamples, judges=said["teacher"].n_unique(), ordered=task.ordered, level=config.level
    )


def reliability_of(
    counts: Floats, resamples: Resamples, *, judges: int, ordered: bool, level: float = 0.95
) -> Reliability:
    """The coefficients of label counts, each with its interval.

    Args:
        counts: ``[R, L]``, from :func:`label_counts`.
        resamples: Of the R rows' groups.
        judges: How many there are, for the record.
        ordered: Whether labels are grades.
        level: Coverage aimed at.
    """
    paired = counts.sum(axis=1) >= 2
    size = Size(int(paired.sum()), len(np.unique(resamples.codes[paired])))
    if not size.rows:
        nothing = undefined("no row was judged by two", size, level=level)
        return Reliability(
            judges=judges, rows=0, agreement=nothing, alpha=nothing, kappa=nothing, ac=nothing, ordered=ordered
        )
    weights = agreement_weights(counts.shape[1], "quadratic" if ordered else "identity")
    plain = _statistics(counts, np.eye(counts.shape[1]))
    weighted = _statistics(counts, weights) if ordered else plain
    coincidences = _coincidences(counts).reshape(len(counts), -1)
    labels = counts.shape[1]

    def with_interval(statistic: Callable[[Floats], Floats], of_rows: Floats, *, share: bool = False) -> Estimate:
        value = float(statistic(of_rows.sum(axis=0, keepdims=True))[0])
        draws = statistic(resamples.sums(of_rows))
        return estimate(value, draws, size, level=level, proportion=share, bounds=(-1.0, 1.0))

    def alpha(sums: Floats) -> Floats:
        return _alpha(sums.reshape(-1, labels, labels), "ordinal" if ordered else "nominal")

    return Reliability(
        judges=judges,
        rows=size.rows,
        agreement=with_interval(lambda sums: _ratio(sums[:, 0], sums[:, 1]), plain, share=True),
        alpha=with_interval(alpha, coincidences),
        kappa=with_interval(lambda sums: _corrected(sums, weights, _chance_of_frequencies), weighted),
        ac=with_interval(lambda sums: _corrected(sums, weights, _chance_of_gwet), weighted),
        ordered=ordered,
    )


def _coincidences(counts: Floats) -> Floats:
    """``[R, L, L]``, what each row adds to the coincidence matrix."""
    total = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :]
    pairs -= counts[:, :, None] * np.eye(counts.shape[1])
    result: Floats = np.where(total[:, None, None] > 1, pairs / np.maximum(total - 1, 1)[:, None, None], 0.0)
    return result


def _alpha(coincidences: Floats, level: Level) -> Floats:
    """Alpha of coincidence matrices ``[B, L, L]``."""
    frequency = coincidences.sum(axis=2)
    total = frequency.sum(axis=1)
    different = _differences(frequency, level)
    seen = (coincidences * different).sum(axis=(1, 2))
    expected = (frequency[:, :, None] * frequency[:, None, :] * different).sum(axis=(1, 2))
    return 1.0 - (total - 1.0) * _ratio(seen, expected)


def _differences(frequency: Floats, level: Level) -> Floats:
    """``[B, L, L]`` squared differences between labels."""
    batch, labels = frequency.shape
    if level == "nominal":
        return np.broadcast_to(1.0 - np.eye(labels), (batch, labels, labels))
    place = np.arange(labels)
    if level == "interval":
        return np.broadcast_to(np.subtract.outer(place, place).astype(float) ** 2, (batch, labels, labels))
    up_to = np.concatenate([np.zeros((batch, 1)), frequency.cumsum(axis=1)], axis=1)
    low, high = np.minimum.outer(place, place), np.maximum.outer(place, place)
    between = up_to[:, high + 1] - up_to[:, low]
    result: Floats = (between - (frequency[:, :, None] + frequency[:, None, :]) / 2) ** 2
    return result


def _statistics(counts: Floats, weights: Floats) -> Floats:
    """``[R, 3 + L]``: agreement of a row, whether it has two votes, whether it has any, its shares of the labels."""
    total = counts.sum(axis=1)
    pairs = np.maximum(total * (total - 1), 1)
    paired = total > 1
    agreed = (counts * (counts @ weights - 1.0)).sum(axis=1) / pairs
    shares = counts / np.maximum(total, 1)[:, None]
    return np.column_stack([np.where(paired, agreed, 0.0), paired, total > 0, shares])


def _beyond_chance(counts: Floats, weights: Weights, chance: Callable[[Floats, Floats], Floats]) -> float:
    matrix = agreement_weights(counts.shape[1], weights)
    return float(_corrected(_statistics(counts, matrix).sum(axis=0, keepdims=True), matrix, chance)[0])


def _corrected(sums: Floats, weights: Floats, chance: Callable[[Floats, Floats], Floats]) -> Floats:
    observed = _ratio(sums[:, 0], sums[:, 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = chance(sums[:, 3:] / sums[:, 2:3], weights)
    return _ratio(observed - expected, 1.0 - expected)


def _chance_of_frequencies(frequency: Floats, weights: Floats) -> Floats:
    result: Floats = ((frequency @ weights) * frequency).sum(axis=1)
    return result


def _chance_of_gwet(frequency: Floats, weights: Floats) -> Floats:
    labels = len(weights)
    result: Floats = weights.sum() / max(labels * (labels - 1), 1) * (frequency * (1.0 - frequency)).sum(axis=1)
    return result


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan, dtype=float), where=np.abs(below) > 1e-12)
