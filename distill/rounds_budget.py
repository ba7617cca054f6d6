"""The budget of all rounds together: what is left of it, and how many rows of a further round that bears."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl

from distill.eval.wording import dollars
from distill.rounds_asking import CONTROL, cost_of
from distill.rounds_config import RoundsConfig
from distill.rounds_ladder import all_votes
from distill.run_folder import RunFolder

_LEAST_SHARE = 0.2
"""Of a round's rows, those that what is left of the budget must bear for a round to be begun."""


class RoundsBudget:
    """``rounds.budget_usd`` against the votes of the rounds so far, whichever command paid for them.

    Args:
        rounds: The recipe's section; without a budget in it, everything can be afforded.
    """

    def __init__(self, rounds: RoundsConfig) -> None:
        self._rounds = rounds

    def left_usd(self, folder: RunFolder, *, also: Path | None = None) -> float | None:
        """What is left once the rounds up to one are paid; None without a budget.

        Args:
            folder: Of that round, whose votes hold those of the rounds before.
            also: A table of further votes that are paid for as well, which is there or not.
        """
        if self._rounds.budget_usd is None:
            return None
        controls = RunFolder(folder.path / CONTROL).votes
        tables = [folder.votes, controls if controls.exists() else None, also if also and also.exists() else None]
        return self._rounds.budget_usd - (cost_of(all_votes(tables)) or 0.0)

    def affordable(self, before: RunFolder, *, also: Path) -> int:
        """Rows of a round that has begun: as many as wanted, fewer where the budget ends.

        Args:
            before: The round before it.
            also: Votes of the round's recheck, which is over, where there was one.
        """
        if self._rounds.budget_usd is None:
            return self._rounds.rows
        bears = self._bears(before, self.left_usd(before, also=also) or 0.0)
        return math.floor(min(self._rounds.rows, bears))

    def too_little_said(self, folder: RunFolder, wanted: int) -> str:
        """Why the budget bears no further round, in words; empty where it bears one.

        Args:
            folder: Of the last round.
            wanted: Rows that a further one would ask about.
        """
        if (left := self.left_usd(folder)) is None:
            return ""
        budget_usd = self._rounds.budget_usd or 0.0
        bears = self._bears(folder, left - self._recheck_usd(folder))
        if bears >= max(1.0, _LEAST_SHARE * wanted):
            return ""
        return (
            f"the budget is spent: {dollars(budget_usd - left)} of {dollars(budget_usd)} (rounds.budget_usd), "
            f"and what is left bears {math.floor(bears):,} of {wanted:,} rows of another round"
        )

    def _bears(self, folder: RunFolder, left_usd: float) -> float:
        """Rows that so much bears, by what the labelers have cost a row."""
        a_row = self._row_usd(pl.read_parquet(folder.votes))
        if a_row <= 0:
            return math.inf if left_usd >= 0 else 0.0
        return max(0.0, left_usd) / (a_row * (2 if self._rounds.control else 1))

    def _recheck_usd(self, folder: RunFolder) -> float:
        """What a stronger teacher will take for the rows of a round that it is asked again."""
        if (again := self._rounds.recheck) is None:
            return 0.0
        votes = pl.read_parquet(folder.votes)
        own = votes.filter(pl.col("teacher") == again.teacher)
        # Before it was ever asked, it is taken to cost what all the others do together.
        once = (cost_of(own) or 0.0) / own["row_id"].n_unique() if len(own) else self._row_usd(votes)
        return again.rows * once

    def _row_usd(self, votes: pl.DataFrame) -> float:
        """What all labelers together have cost a row."""
        again = self._rounds.recheck
        labeled = votes.filter(pl.col("teacher") != (again.teacher if again else ""))
        return (cost_of(labeled) or 0.0) / max(1, labeled["row_id"].n_unique())
