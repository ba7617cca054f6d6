"""Which trace and which clauses stay beside a merged label: those of the surest vote that gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from distill.labeling.answers.traces import UNFIT


class TraceFlaws(NamedTuple):
    """Of each vote, whether its trace must not be kept, and whether another one is better."""

    unfit: np.ndarray
    flawed: np.ndarray


@dataclass(frozen=True)
class AgreeingVotes:
    """The votes that give the merged label of their row.

    Attributes:
        votes: The table that they stand in.
        position: Line of each there, shape (n,).
        row: Index of its row, shape (n,).
        certainty: How sure it is, shape (n,); -1 where it does not say.
        rows: How many rows there are.
    """

    votes: pl.DataFrame
    position: np.ndarray
    row: np.ndarray
    certainty: np.ndarray
    rows: int

    def flaws(self) -> TraceFlaws:
        """What ``trace_problems`` say of each vote's trace."""
        none = np.zeros(len(self.position), dtype=bool)
        if "trace_problems" not in self.votes.columns or not len(none):
            return TraceFlaws(none, none)
        problems = self.votes["trace_problems"].gather(self.position).cast(pl.List(pl.String))
        unfit = problems.list.set_intersection(sorted(UNFIT)).list.len() > 0
        return TraceFlaws(unfit.fill_null(False).to_numpy(), (problems.list.len() > 0).fill_null(False).to_numpy())

    def surest_with(self, name: str, *, among: np.ndarray | None = None, after: np.ndarray | None = None) -> np.ndarray:
        """For each row, of the votes that have a value the surest; -1 for none, of equals the first.

        Args:
            name: Column of the value: a text, or a list.
            among: Whether each vote may be taken, shape (n,); all may where not given.
            after: Those that come after all others, shape (n,).
        """
        best = np.full(self.rows, -1)
        able = self._filled(name) if among is None else self._filled(name) & among
        some = np.flatnonzero(able)
        if len(some):
            late = np.zeros(len(some)) if after is None else after[some]
            order = some[np.lexsort((-self.certainty[some], late, self.row[some]))]
            rows = self.row[order]
            first = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
            best[rows[first]] = order[first]
        return best

    def kept(self, trace: np.ndarray, clauses: np.ndarray) -> list[pl.Series]:
        """Columns ``trace``, ``trace_teacher`` and ``clauses`` of all rows, of votes that :meth:`surest_with` found.

        Args:
            trace: Position of the vote whose trace a row keeps, -1 for none, shape (rows,).
            clauses: Likewise of the vote whose clauses it keeps.
        """
        return [
            self._gathered("trace", trace, pl.String()),
            self._gathered("teacher", trace, pl.String()).alias("trace_teacher"),
            self._gathered("clauses", clauses, pl.List(pl.String())),
        ]

    def _filled(self, name: str) -> np.ndarray:
        if name not in self.votes.columns:
            return np.zeros(len(self.position), dtype=bool)
        column = self.votes[name].gather(self.position)
        is_list = isinstance(column.dtype, pl.List)
        filled = column.list.len() > 0 if is_list else column.cast(pl.String).str.len_bytes() > 0
        return filled.fill_null(False).to_numpy()

    def _gathered(self, name: str, at: np.ndarray, dtype: pl.DataType) -> pl.Series:
        """Values of some votes, null where ``at`` is -1."""
        if name not in self.votes.columns or not len(self.position):
            return pl.Series(name, [None] * len(at), dtype=dtype)
        positions = pl.Series(np.where(at >= 0, self.position[at], 0))
        return self.votes[name].gather(positions.set(pl.Series(at < 0), None)).cast(dtype).alias(name)
