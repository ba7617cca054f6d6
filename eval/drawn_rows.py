r"""Rows of which some had a label anyway and others were drawn, with chances that are known, to get one.

A row that had its label anyway (``chance`` null), or was sure to be drawn (1), was labeled for certain: it stands for
itself alone, and the other rows drawn stand for all the rest. With :math:`N` rows, :math:`K` of them labeled for
certain, and the chances :math:`\pi_i` of the other rows drawn, a mean is

.. math:: \frac{K}{N} \overline{y}_{certain} + \frac{N - K}{N} \frac{\sum_i y_i / \pi_i}{\sum_i 1 / \pi_i}

which is a sample with two strata. To weigh all of them together, by 1 and :math:`1 / \pi_i`, comes to the same on
average, but has :math:`\sum_i 1 / \pi_i` in the place of :math:`N - K`, which is known: from draw to draw those labeled
for certain would count too much or too little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from distill.eval.metrics import Floats
from distill.eval.prediction_powered import FEWEST_LABELED, Sample
from distill.labeling.errors import DataError

_FEWEST_IN_STRATUM = 10


def drawn_sample(
    truth: Floats, guess: Floats, group: NDArray[Any], chance: Floats | None, *, stratum: NDArray[Any] | None = None
) -> Sample:
    """The rows as a sample to estimate from; see :mod:`distill.eval.drawn_rows`.

    Where no row was drawn by chance, the labels are taken for a plain random sample. Where fewer than two rows are
    labeled on either side, strata of both cannot be estimated, and all are weighed together.

    Args:
        truth: ``[N]``, NaN where nobody said.
        guess: ``[N]``.
        group: ``[N]``.
        chance: ``[N]``, with which probability a labeled row was drawn; NaN or 1 for one labeled for certain. None
            where nothing was drawn.
        stratum: ``[N]``, strata of the rows drawn, or of all in a plain sample; not used where one of them has fewer
            than ten labels.
    """
    labeled = np.isfinite(truth)
    drawn = np.zeros(len(truth), dtype=bool) if chance is None else labeled & (chance < 1.0)
    if chance is None or not drawn.any():
        return Sample(truth, guess, group, _usable(stratum, labeled))
    certain = labeled & ~drawn
    apart = min(certain.sum(), drawn.sum()) >= FEWEST_LABELED
    within = _usable(stratum, drawn if apart else labeled)
    if apart:
        others = "drawn" if within is None else np.char.add("drawn ", within.astype(str))
        within = np.where(certain, "certain", others)
    return Sample(truth, guess, group, within, np.where(drawn, chance, 1.0))


def chances(rows: pl.DataFrame, where: str) -> Floats | None:
    """``[N]``, with which probability each row was drawn to be labeled: the column ``chance``, 1 where it is null.

    None where the rows have no such column, or nothing in it.

    Args:
        rows: The rows table.
        where: What an error begins with.

    Raises:
        DataError: The chance of a row with gold is none.
    """
    if "chance" not in rows.columns or rows["chance"].is_null().all():
        return None
    chance: Floats = rows["chance"].fill_null(1.0).to_numpy().astype(float)
    wrong = rows["gold"].is_not_null().to_numpy() & ~((chance > 0) & (chance <= 1))
    if wrong.any():
        odd = rows["row_id"][int(np.argmax(wrong))]
        raise DataError(
            f"{where}: the chance of row {odd!r} to be labeled must lie above 0 and be at most 1, got "
            f"{chance[np.argmax(wrong)]:g}; correct `chance`"
        )
    return chance


def _usable(stratum: NDArray[Any] | None, labeled: NDArray[np.bool_]) -> NDArray[Any] | None:
    """Strata with enough labels in each to estimate from; None for none."""
    if stratum is None:
        return None
    names, codes = np.unique(stratum, return_inverse=True)
    counts = np.bincount(codes[labeled], minlength=len(names))
    return stratum if len(names) > 1 and counts.min() >= _FEWEST_IN_STRATUM else None
