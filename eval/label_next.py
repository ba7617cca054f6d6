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

import numpy as np
import polars as pl

from distill.eval.metrics import Floats
from distill.labeling.errors import DataError


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
