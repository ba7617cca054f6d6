r"""Which rows a person should label next, so that an estimate's interval shrinks most and stays honest.

Rows are **drawn**, not picked: each with a probability :math:`\pi_i` above zero that is written down, so that
:mod:`distill.eval.prediction_powered` can weigh it back. Picking the most doubtful rows outright would bias every
number computed from them.

For the mean of a truth guessed as :math:`f`, the variance of the estimate is least with :math:`\pi_i` proportional to
how far off the guess is expected to be (Zrnic and Candès 2024, https://arxiv.org/abs/2403.03208); for a guessed
probability of being right that is :math:`\sqrt{f_i (1 - f_i)}`. A guess that is wrongly sure of itself would almost
never be drawn and, once drawn, count enormously, so that a share of the draw ignores it:

.. math:: \pi_i \propto \tau + (1 - \tau) \frac{u_i}{\bar u}, \quad u_i = \sqrt{f_i (1 - f_i)}, \quad \sum_i \pi_i = n
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import polars as pl

from distill.eval.drawn_rows import drawn_sample
from distill.eval.intervals import FEW_GROUPS
from distill.eval.metrics import Floats
from distill.eval.prediction_powered import FEWEST_LABELED, Sample, prediction_powered_mean
from distill.labeling.errors import DataError

_SIMULATIONS = 25
"""Sets of truths drawn from the guess; the mean half width over them is off by a few per cent."""


class HalfWidths(NamedTuple):
    """Half the width of an interval, before and after rows are labeled.

    Attributes:
        now: Of the estimate from the labels there are; None with too few of them.
        then: Expected of the estimate once the rows drawn are labeled.
        measured: Whether ``then`` was brought to scale by ``now``. Where it was not, it takes the guess at its word and
            the rows of a group for independent, and reads low.
    """

    now: float | None
    then: float
    measured: bool


def rows_to_label(
    rows: pl.DataFrame, guess: Floats, *, count: int, explore: float = 0.5, seed: int = 0
) -> pl.DataFrame:
    """Draws rows for people to label.

    The draw is systematic over rows sorted by group, so that its size is exact and queries are represented as evenly as
    their probabilities say.

    Args:
        rows: ``row_id`` and ``group`` of rows without gold; other columns are kept.
        guess: ``[N]``, the probability that what is to be estimated is 1 for the row, such as that a student is right.
        count: Rows to draw.
        explore: Share of the draw that ignores the guess, above 0 and at most 1; 1 is a plain random sample.
        seed: Of the draw.

    Returns:
        The rows drawn, those with the largest expected surprise first, with ``chance`` f64: with which probability each
        was drawn.

    Raises:
        DataError: There are fewer rows than asked for, or a guess is no probability.
    """
    if not 0 < count <= len(rows):
        raise DataError(f"rows to label: {count} asked for of {len(rows)} rows; ask for between 1 and {len(rows)}")
    if not 0.0 < explore <= 1.0:
        raise DataError(f"rows to label: explore must lie above 0 and be at most 1, got {explore}")
    if len(guess) != len(rows) or not ((guess >= 0) & (guess <= 1)).all():
        raise DataError("rows to label: guess must hold one probability a row")
    doubt = np.sqrt(guess * (1.0 - guess))
    wanted = explore + (1.0 - explore) * (doubt / doubt.mean() if doubt.any() else np.ones(len(doubt)))
    chance = inclusion_chances(wanted, count)
    order = np.argsort([_place(str(group), seed) for group in rows["group"]], kind="stable")
    drawn = order[_systematic(chance[order], np.random.default_rng(seed))]
    table = rows[np.sort(drawn)].with_columns(chance=pl.Series(chance[np.sort(drawn)]))
    return table.with_columns(_doubt=pl.Series(doubt[np.sort(drawn)])).sort("_doubt", descending=True).drop("_doubt")


def by_group(drawn: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """The rows in the order to hand them out: groups in a random order, the rows of one together.

    Who stops half-way has then labeled a random half, where the most doubtful first would leave the easy ones out and
    tell the annotator how sure the model is; and a query is read once for all of its rows.
    """
    place = pl.Series([_place(str(group), seed + 1) for group in drawn["group"]], dtype=pl.UInt64)
    return drawn.with_columns(_place=place).sort("_place", "row_id").drop("_place")


def expected_half_widths(now: Sample, drawn: Floats, *, level: float = 0.95, seed: int = 0) -> HalfWidths:
    """How far an interval is expected to shrink once rows that were drawn are labeled.

    Truths are drawn from the guess a few times, and each set goes through the estimator that will be used. The guess
    may be too sure of itself, and rows of one group err together: where there are labels in at least 20 groups, what
    the interval is now over what the guess would have it be tells by how much, and the result is multiplied by that.

    Args:
        now: The split as it is.
        drawn: ``[N]``, with which probability a row was drawn to be labeled next; NaN for all others.
        level: Coverage of the intervals.
        seed: Of the truths drawn.
    """
    random = np.random.default_rng(seed)
    taken = np.isfinite(drawn)
    chance = np.where(taken, drawn, np.nan)
    guessed = [(random.random(len(now.guess)) < now.guess).astype(float) for _ in range(_SIMULATIONS)]
    groups = len(np.unique(now.group[now.labeled]))
    have = _half_width(now, level) if now.labeled.sum() >= FEWEST_LABELED and groups > 1 else None
    then = []
    for truth in guessed:
        known = np.where(now.labeled, now.truth, np.where(taken, truth, np.nan))
        then.append(_half_width(drawn_sample(known, now.guess, now.group, chance), level))
    expected = float(np.mean(then))
    if have is None or groups < FEW_GROUPS:
        return HalfWidths(have, expected, measured=False)
    seen = [np.where(now.labeled, truth, np.nan) for truth in guessed]
    usual = np.mean([_half_width(Sample(y, now.guess, now.group, now.stratum, now.chance), level) for y in seen])
    return HalfWidths(have, expected * have / float(usual) if usual > 0 else expected, measured=bool(usual > 0))


def _half_width(sample: Sample, level: float) -> float:
    found = prediction_powered_mean(sample, level=level).estimate
    return (found.high - found.low) / 2 if found.low is not None and found.high is not None else 0.5


def inclusion_chances(size: Floats, count: int) -> Floats:
    """Probabilities in proportion to ``size`` ``[N]`` that sum to ``count``; where one would pass 1 it is 1."""
    chance = np.zeros(len(size))
    free = np.ones(len(size), dtype=bool)
    while True:
        left = count - int((~free).sum())
        chance[free] = left * size[free] / size[free].sum()
        over = free & (chance >= 1.0)
        if not over.any():
            return chance
        chance[over] = 1.0
        free &= ~over
        if not free.any():
            return chance


def _systematic(chance: Floats, random: np.random.Generator) -> np.ndarray:
    """Positions where the running sum of chances passes ``start + k``, k = 0, 1, …: as many as the chances sum to."""
    upper = np.cumsum(chance)
    count = round(float(upper[-1]))
    marks = random.random() + np.arange(count)
    return np.minimum(np.searchsorted(upper, marks, side="right"), len(chance) - 1)


def _place(group: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{group}".encode(), digest_size=8).digest())
