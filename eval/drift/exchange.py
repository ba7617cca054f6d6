"""What chance alone makes of the difference between two sets: groups exchanged between them.

Rows of one query resemble each other, so that it is queries that are exchanged, with all their rows. A **block** is the
rows of one group in one set. Where nothing has changed, it is chance which blocks the current set holds:

* A group that only one set has is dealt anew: as many blocks as before go to either set.
* A group that both sets have keeps a block in either, and the two are swapped by the toss of a coin. Dealt freely, both
  blocks of a frequent query would often end in one set, and no shift would ever be seen beside that.

The sets need not be of one size. A block counts by its share of its own set; one that is dealt to the other set counts
there as much more or less as a block of one's own does on average there. With equal sizes and no common group this is
the classical permutation test over groups, which is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.eval.intervals import Estimate, Resamples, Size, estimate
from distill.eval.metrics import Floats, Ints

_CELLS_AT_ONCE = 4_000_000


class Dealt(NamedTuple):
    """How much each block counts in either set: ``[b, blocks]`` each, of which one is zero."""

    reference: Floats
    current: Floats


@dataclass(frozen=True)
class Exchange:
    """Two sets of rows as blocks, and their exchanges.

    Attributes:
        block: ``[n]``, each row's block; the reference's rows first.
        unit: ``[n]``, what a row counts within its block, in units of its set's mean block.
        current: ``[blocks]``, whether the block is one of the current set.
        partner: ``[blocks]``, the same group's block in the other set, -1 without one.
        weight_there: ``[2, blocks]``, what one unit of the block counts in the reference and in the current set.
        count: Exchanges drawn.
        seed: The same seed and sets give the same exchanges.
    """

    block: Ints
    unit: Floats
    current: NDArray[np.bool_]
    partner: Ints
    weight_there: Floats
    count: int
    seed: int

    @classmethod
    def of(
        cls, reference: NDArray[Any], current: NDArray[Any], *, weights: tuple[Floats, Floats], count: int, seed: int
    ) -> Exchange:
        """Makes blocks of the groups of two sets.

        Args:
            reference: ``[n0]``, each row's group.
            current: ``[n1]``, likewise.
            weights: How often each row counts, ``[n0]`` and ``[n1]``, above zero.
            count: Exchanges to draw.
            seed: Of the draws.
        """
        names = np.unique(np.concatenate([reference, current]).astype(str), return_inverse=True)[1]
        side = np.repeat([0, 1], [len(reference), len(current)])
        keys, block = np.unique(2 * names + side, return_inverse=True)
        group, is_current = keys // 2, keys % 2 == 1
        partner = np.full(len(keys), -1)
        both = np.flatnonzero(group[1:] == group[:-1])
        partner[both], partner[both + 1] = both + 1, both
        mass = np.concatenate([part / part.sum() for part in weights])
        scale = np.ones(len(keys))
        there = np.ones((2, len(keys)))
        alone = partner < 0
        by_block = np.bincount(block, weights=mass, minlength=len(keys))
        for number, own in enumerate((alone & ~is_current, alone & is_current)):
            mean = by_block[own].mean() if own.any() else 0.0
            scale[own] = mean
            there[number, alone] = mean
        return cls(block, mass / scale[block], is_current, partner, there, count, seed)

    @property
    def blocks(self) -> int:
        """How many there are."""
        return len(self.current)

    @property
    def groups(self) -> tuple[int, int]:
        """Groups of the reference and of the current set."""
        return int((~self.current).sum()), int(self.current.sum())

    @cached_property
    def group(self) -> Ints:
        """``[blocks]``, one name for both blocks of a group."""
        own = np.arange(self.blocks)
        return np.where(self.partner >= 0, np.minimum(own, self.partner), own)

    def resamples(self, count: int) -> Resamples:
        """Resamples of the groups, for statistics of blocks."""
        codes = np.unique(self.group, return_inverse=True)[1].astype(np.int64)
        return Resamples(codes, int(codes.max()) + 1, count, self.seed)

    @cached_property
    def total(self) -> Floats:
        """``[blocks]``, the rows of each block, in units."""
        return np.bincount(self.block, weights=self.unit, minlength=self.blocks).astype(float)

    @cached_property
    def side(self) -> NDArray[np.bool_]:
        """``[n]``, whether a row is one of the current set."""
        found: NDArray[np.bool_] = self.current[self.block]
        return found

    @cached_property
    def mass(self) -> Floats:
        """``[n]``, each row's share of its own set."""
        there: Floats = self.weight_there[self.side.astype(int), self.block]
        return self.unit * there

    def sums(self, values: Floats) -> Floats:
        """Sums ``values`` ``[n, k]`` over the rows of each block, each row by its unit: ``[blocks, k]``."""
        columns = [np.bincount(self.block, weights=self.unit * one, minlength=self.blocks) for one in values.T]
        return np.stack(columns, axis=1)

    def cells(self, codes: Ints, count: int, *, only: NDArray[np.bool_] | None = None) -> Floats:
        """Counts the rows of each block by cell: codes ``[n]`` of ``count`` cells give ``[blocks, count]``."""
        unit = self.unit if only is None else self.unit * only
        flat = np.bincount(self.block * count + codes, weights=unit, minlength=self.blocks * count)
        return flat.reshape(self.blocks, count).astype(float)

    def observed(self) -> Dealt:
        """The sets as they are, as one line."""
        return self._dealt(self.current[None, :])

    def draws(self) -> Iterator[Dealt]:
        """``count`` exchanges, some at a time."""
        alone = np.flatnonzero(self.partner < 0)
        first = np.flatnonzero((self.partner >= 0) & ~self.current)
        width = max(1, _CELLS_AT_ONCE // max(1, self.blocks))
        for number, start in enumerate(range(0, self.count, width)):
            random = np.random.default_rng([self.seed, number])
            lines = min(width, self.count - start)
            there = np.zeros((lines, self.blocks), bool)
            there[:, alone] = random.permuted(np.tile(self.current[alone], (lines, 1)), axis=1)
            swapped = random.random((lines, len(first))) < 0.5
            there[:, first] = swapped
            there[:, self.partner[first]] = ~swapped
            yield self._dealt(there)

    def _dealt(self, there: NDArray[np.bool_]) -> Dealt:
        return Dealt(~there * self.weight_there[0], there * self.weight_there[1])


def shares(sums: Any, dealt: Dealt, *, total: Floats) -> tuple[Floats, Floats]:
    """Means over the rows of both sets for each exchange.

    Args:
        sums: ``[blocks, k]``, sums over the rows of each block; dense, or a scipy sparse matrix.
        dealt: Which block counts where.
        total: ``[blocks]``, the rows of each block, in units.

    Returns:
        ``[b, k]`` for the reference and for the current set.
    """
    found = []
    for part in dealt:
        below = part @ total
        above = (sums.T @ part.T).T if not isinstance(sums, np.ndarray) else part @ sums
        found.append(above / below[:, None])
    return found[0], found[1]


def differences(
    sums: Floats, exchange: Exchange, *, total: Floats | None = None, level: float = 0.95, count: int = 500
) -> list[Estimate]:
    """Current less reference, for k shares or means at once, with intervals that resample groups.

    Args:
        sums: ``[blocks, k]``.
        exchange: The blocks.
        total: ``[blocks]``, what each share is of; all rows of the block by default.
        level: Coverage aimed at.
        count: Resamples.
    """
    total = exchange.total if total is None else total
    width, (before, now) = sums.shape[1], exchange.observed()
    parts = [np.column_stack([sums, total]) * weight[0][:, None] for weight in (before, now)]
    resamples = exchange.resamples(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = [found[:, :width] / found[:, width:] for found in map(resamples.sums, parts)]
        here = [found[:width] / found[width] for found in (part.sum(axis=0) for part in parts)]
    size = Size(len(exchange.block), min(exchange.groups))
    return [
        estimate(float(here[1][k] - here[0][k]), drawn[1][:, k] - drawn[0][:, k], size, level=level)
        for k in range(width)
    ]


def p_value(observed: float, draws: Floats) -> float:
    """Share of the exchanges with a statistic at least as large, the sets as they are counted among them."""
    return float((1 + (draws >= observed - 1e-12).sum()) / (1 + len(draws)))


def adjusted(p_values: Floats, *, yekutieli: bool = False) -> Floats:
    r"""p-values adjusted so that those at most *q* are refused at a false discovery rate of *q*.

    :math:`\tilde p_{(k)} = \min_{j \ge k} \min(1, c \, m \, p_{(j)} / j)` with c = 1 (Benjamini and Hochberg 1995) or,
    whatever their dependence, :math:`c = \sum_{i=1}^m 1 / i` (Benjamini and Yekutieli 2001).
    """
    count = len(p_values)
    if not count:
        return p_values
    places = np.arange(1, count + 1)
    order = np.argsort(p_values)
    scaled = p_values[order] * count / places * (float((1 / places).sum()) if yekutieli else 1.0)
    result = np.empty(count)
    result[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return result
