"""Rounds in a plan: what the first one asks is certain; what the later ones ask hangs on students not yet trained."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from distill.labeling.task import Task
from distill.plan_cascade import Foreseen
from distill.recipe import Recipe
from distill.recipe_rounds import CHOOSABLE


def foresee_rounds(rows: pl.DataFrame, recipe: Recipe, *, teachers: Sequence[str]) -> Foreseen:
    """Who is asked about what: the first round for certain, and at most as many rows as all rounds may choose.

    Which rows later rounds choose is not known; a draw of as many stands for them.

    Args:
        rows: The rows table.
        recipe: With rounds.
        teachers: Names of all teachers.
    """
    from distill.rounds_rows import first_choice, most_choice

    rounds = recipe.rounds
    assert rounds is not None and recipe.task is not None
    task = Task.from_config(recipe.task)
    first = first_choice(rows, recipe, task=task).select("row_id")
    most = pl.DataFrame({"row_id": most_choice(rows, recipe, task=task)})
    sent, spared = {}, {}
    for name in teachers:
        asked = most
        sent[name] = first
        if rounds.recheck is not None and name == rounds.recheck.teacher:
            able = rows.filter(pl.col("split").is_in(CHOOSABLE)).join(most, on="row_id", how="semi")
            asked = able.select("row_id").head(rounds.recheck.rows * (rounds.count - 1))
            sent[name] = first.head(0)
        spared[name] = rows.select("row_id").join(asked, on="row_id", how="anti")
    early = ", and the run ends when no gain is shown" if rounds.until_no_gain else ""
    return Foreseen(sent, spared, f"asked in at most {rounds.count} rounds, of which the first is certain{early}")
