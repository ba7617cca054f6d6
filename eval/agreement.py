"""How far judges agree: pair by pair, beyond chance, and label by label."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval import metrics
from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, Size, estimate, undefined
from distill.eval.metrics import Floats
from distill.eval.scored import collapse_votes, label_indices
from distill.labeling.task import Task


class PairAgreement(Frozen):
    """Two judges on the rows that both labeled."""

    first: str
    second: str
    same_family: bool
    rows: int = Field(description="rows that both labeled")
    disagreements: int
    agreement: Estimate = Field(description="share of those rows on which they gave the same label")
    kappa: Estimate = Field(description="Cohen's kappa: agreement beyond chance, 0 is chance, 1 is complete")
    by_label: dict[str, Estimate] = Field(description="agreement on a label, given that one of the two gave it")
    table: list[list[int]] = Field(description="rows by the first judge's label (line) and the second's (column)")
    gold_rows: int = Field(0, description="rows on which they disagree and a gold label is known")
    gold_first: int = Field(0, description="of those, how often gold sides with the first")
    gold_second: int = Field(0, description="of those, how often gold sides with the second")


def cohen_kappa(matrix: Floats) -> Floats:
    """Cohen's kappa: agreement beyond what the two judges' label frequencies give by chance (Cohen 1960).

    ``kappa = (p_o - p_e) / (1 - p_e)`` with ``p_o = sum_i C[i, i] / N`` and
    ``p_e = sum_i (sum_j C[i, j]) (sum_j C[j, i]) / N^2``. NaN where chance alone makes them agree fully.

    Args:
        matrix: ``[..., L, L]``, rows by the one judge's label and the other's.
    """
    total = matrix.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(matrix, axis1=-2, axis2=-1) / total
        chance = (matrix.sum(axis=-1) * matrix.sum(axis=-2)).sum(axis=-1) / total**2
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def label_agreement(matrix: Floats) -> Floats:
    """Specific agreement on each label: of the times that either judge gave it, how often the other did too.

    ``2 C[i, i] / (sum_j C[i, j] + sum_j C[j, i])`` (Cicchetti & Feinstein 1990). NaN for a label that neither gave.

    Args:
        matrix: ``[..., L, L]``.

    Returns:
        ``[..., L]``.
    """
    hits = 2 * np.diagonal(matrix, axis1=-2, axis2=-1)
    given = matrix.sum(axis=-1) + matrix.sum(axis=-2)
    return np.divide(hits, given, out=np.full_like(given, np.nan), where=given > 0)


def judge_agreement(
    votes: pl.DataFrame, rows: pl.DataFrame, *, task: Task, config: EvalConfig | None = None, seed: int = 0
) -> list[PairAgreement]:
    """Compares every pair of judges on the rows that both labeled.

    Args:
        votes: The votes table (``row_id``, ``teacher``, ``outcome``, ``label``; ``family`` where known).
        rows: The rows table, for groups and, where there is any, gold.
        task: For the labels.
        config: Resamples and level.
        seed: Of the resamples.

    Returns:
        One entry a pair, in order of the judges' names.

    Raises:
        DataError: A label is outside the set.
    """
    config = config or EvalConfig()
    said = collapse_votes(votes).join(rows.select("row_id", "group", "gold"), on="row_id", how="inner")
    names = sorted(said["teacher"].unique())
    families = dict(said.select("teacher", "family").unique().iter_rows()) if "family" in said.columns else {}
    found = []
    for first, second in combinations(names, 2):
        left = said.filter(pl.col("teacher") == first).select("row_id", "group", "gold", first="label")
        right = said.filter(pl.col("teacher") == second).select("row_id", second="label")
        both = left.join(right, on="row_id").sort("row_id")
        same = first in families and families[first] == families.get(second)
        found.append(_pair((first, second), both, same_family=same, task=task, config=config, seed=seed))
    return found


def _pair(
    names: tuple[str, str], both: pl.DataFrame, *, same_family: bool, task: Task, config: EvalConfig, seed: int
) -> PairAgreement:
    count, level = len(task.labels), config.level
    first, second = (label_indices(both[side], task, "votes") for side in ("first", "second"))
    matrix = metrics.confusion(first, second, labels=count)
    resamples = Resamples.of(both["group"].to_numpy(), count=config.bootstrap, seed=seed)
    size = Size(len(both), resamples.groups)
    apart = both.filter((pl.col("first") != pl.col("second")) & pl.col("gold").is_not_null())
    result = {
        "first": names[0],
        "second": names[1],
        "same_family": same_family,
        "rows": len(both),
        "disagreements": int((first != second).sum()),
        "table": matrix.astype(int).tolist(),
        "gold_rows": len(apart),
        "gold_first": apart.filter(pl.col("first") == pl.col("gold")).height,
        "gold_second": apart.filter(pl.col("second") == pl.col("gold")).height,
    }
    if both.is_empty():
        nothing = undefined("no rows in common", size, level=level)
        return PairAgreement(agreement=nothing, kappa=nothing, by_label={}, **result)
    cells = np.zeros((len(both), count * count))
    cells[np.arange(len(both)), first * count + second] = 1.0
    draws = resamples.sums(cells).reshape(-1, count, count)
    of_label, of_label_drawn = label_agreement(matrix), label_agreement(draws)
    return PairAgreement(
        agreement=estimate(
            float(metrics.accuracy(matrix)), metrics.accuracy(draws), size, level=level, proportion=True
        ),
        kappa=estimate(float(cohen_kappa(matrix)), cohen_kappa(draws), size, level=level, bounds=(-1.0, 1.0)),
        by_label={
            label: estimate(float(of_label[i]), of_label_drawn[:, i], size, level=level, proportion=True)
            for i, label in enumerate(task.labels)
        },
        **result,
    )
