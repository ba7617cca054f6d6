"""What is left of the budget of all rounds, and how many rows of a further round it bears."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from distill.rounds_budget import RoundsBudget
from distill.rounds_config import RoundsConfig
from distill.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A round in which a labeler was asked about four rows, and a stronger one again about one of them."""
    lines = [
        ("r0", "cheap", 0.5),
        ("r1", "cheap", 0.5),
        ("r2", "cheap", 0.5),
        ("r3", "cheap", 0.5),
        ("r0", "strong", 2),
    ]
    votes = pl.DataFrame(lines, schema=["row_id", "teacher", "cost_usd"], orient="row")
    votes = votes.with_columns(outcome=pl.lit("labeled"), shared_from=pl.lit(None, dtype=pl.String))
    folder = RunFolder(tmp_path / "round")
    folder.path.mkdir()
    votes.write_parquet(folder.votes)
    return folder


def rounds(**values: object) -> RoundsConfig:
    return RoundsConfig.model_validate({"rows": 10, "recheck": {"teacher": "strong", "rows": 1}, **values})


def test_a_round_is_as_large_as_what_is_left_bears(folder: RunFolder) -> None:
    # Paid: 4 × 0.5 + 2 = 4. Of 7 are left 3, at 0.5 a row: 6 rows; half as many where a control is asked beside them.
    assert RoundsBudget(rounds(budget_usd=7)).left_usd(folder) == pytest.approx(3)
    assert RoundsBudget(rounds(budget_usd=7)).affordable(folder, also=folder.path / "none") == 6
    assert RoundsBudget(rounds(budget_usd=7, control=True)).affordable(folder, also=folder.path / "none") == 3
    # What this round's recheck cost is paid for as well: 7 - 4 - 2 leaves 1, which bears 2 rows.
    recheck = pl.read_parquet(folder.votes).filter(pl.col("teacher") == "strong").with_columns(row_id=pl.lit("r1"))
    recheck.write_parquet(folder.path / "recheck.parquet")
    assert RoundsBudget(rounds(budget_usd=7)).affordable(folder, also=folder.path / "recheck.parquet") == 2


def test_the_next_recheck_is_kept_back_before_a_round_is_begun(folder: RunFolder) -> None:
    # Left 3, of which 2 go to the strong teacher: 1 bears 2 of 10 rows, which is the least share of a fifth.
    assert RoundsBudget(rounds(budget_usd=7)).too_little_said(folder, 10) == ""
    told = RoundsBudget(rounds(budget_usd=6.9)).too_little_said(folder, 10)
    assert "what is left bears 1 of 10 rows" in told and "(rounds.budget_usd)" in told


def test_rows_that_cost_nothing_can_all_be_afforded(folder: RunFolder) -> None:
    pl.read_parquet(folder.votes).with_columns(cost_usd=pl.lit(0.0)).write_parquet(folder.votes)
    for budget_usd in (0, 7):
        budget = RoundsBudget(rounds(budget_usd=budget_usd))
        assert budget.affordable(folder, also=folder.path / "none") == 10
        assert budget.too_little_said(folder, 10) == ""


def test_without_a_budget_nothing_is_too_dear(folder: RunFolder) -> None:
    budget = RoundsBudget(rounds())
    assert budget.left_usd(folder) is None and budget.too_little_said(folder, 10) == ""
    assert budget.affordable(folder, also=folder.path / "none") == 10
