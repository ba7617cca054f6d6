"""Which rows a round asks about: those chosen, and labels that a stronger teacher is asked about again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from distill.eval.row_choice import ChoiceRule, choose_rows
from distill.labeling.rows.row_draw import draw
from distill.labeling.task import Task
from distill.recipe import Recipe
from distill.recipe_rounds import CHOOSABLE, deciding_student
from distill.run_folder import RunFolder, fingerprint, path_digest
from distill.session import Ended, Session
from distill.stages import write_table

CHOSEN_SCHEMA: dict[str, pl.DataType] = {"row_id": pl.String(), "rule": pl.String(), "score": pl.Float64()}
"""Columns of ``chosen.parquet``: what a round asks every teacher about, and the rule that chose it."""
_BY_STUDENTS: frozenset[ChoiceRule] = frozenset({"uncertainty", "disagreement"})
HELD_OUT = "held out"
"""The rule of rows that rounds are measured on."""


def chosen_path(folder: RunFolder) -> Path:
    """The table of rows that a round chose."""
    return folder.path / "chosen.parquet"


def suspects_path(folder: RunFolder) -> Path:
    """The table of labels that a round doubts."""
    return folder.path / "suspects.parquet"


def first_choice(rows: pl.DataFrame, recipe: Recipe, *, task: Task) -> pl.DataFrame:
    """What the first round asks about: a plain draw, and every row of the splits that nothing is chosen from."""
    assert recipe.rounds is not None
    able = left_to_ask(rows, recipe, pl.Series([], dtype=pl.String))
    drawn = _plainly(able, recipe.rounds.first_rows, task=task, seed=recipe.seed)
    held = rows.filter(pl.col("split").is_in(list(recipe.labeling.splits)) & ~pl.col("split").is_in(list(CHOOSABLE)))
    held = held.select("row_id", rule=pl.lit(HELD_OUT), score=pl.lit(None, dtype=pl.Float64))
    return pl.concat([drawn, held])


def most_choice(rows: pl.DataFrame, recipe: Recipe, *, task: Task) -> pl.Series:
    """Ids of as many rows as all rounds may ask about at most, those of the first for certain: what a plan counts."""
    rounds = recipe.rounds
    assert rounds is not None
    first = first_choice(rows, recipe, task=task)["row_id"]
    able = left_to_ask(rows, recipe, first)
    more = (rounds.most_rows - rounds.first_rows) * (2 if rounds.control else 1)
    return pl.concat([first, _plainly(able, more, task=task, seed=recipe.seed)["row_id"]])


def left_to_ask(rows: pl.DataFrame, recipe: Recipe, asked: pl.Series) -> pl.DataFrame:
    """The rows that a round may choose: of splits pool and train as far as these are asked, and not asked before."""
    able = pl.col("split").is_in(_choosable(recipe)) & (pl.col("weight") > 0)
    return rows.filter(able & ~pl.col("row_id").is_in(asked.implode()))


def choose_first(session: Session) -> None:
    """The choice of the first round, into ``chosen.parquet``."""

    def work() -> Ended:
        rows = pl.read_parquet(session.folder.rows)
        chosen = first_choice(rows, session.recipe, task=session.task)
        write_table(chosen, chosen_path(session.folder))
        drawn = len(chosen.filter(pl.col("rule") != HELD_OUT))
        return Ended(f"{drawn:,} rows by a plain draw, {len(chosen) - drawn:,} held out to measure on")

    rounds = session.recipe.rounds
    assert rounds is not None
    _stage(session, "choose", [rounds.first_rows], chosen_path(session.folder), work)


@dataclass(frozen=True)
class Choosing:
    """How a later round chooses.

    Attributes:
        rules: Share of each rule.
        count: Rows to choose.
        asked: Ids of the rows asked before, held-out ones among them.
        before: Folder of the round whose students look at the candidates.
        students: Those students.
    """

    rules: dict[ChoiceRule, float]
    count: int
    asked: pl.Series
    before: RunFolder
    students: Sequence[str]


def choose_more(session: Session, choosing: Choosing) -> None:
    """The choice of a later round, into ``chosen.parquet``.

    It is made once. Where votes or students of an earlier round change afterwards (what failed is asked again), the
    rows stay: they are paid for.
    """

    def work() -> Ended:
        recipe, number = session.recipe, len(choosing.asked)
        rows = pl.read_parquet(session.folder.rows)
        assert recipe.rounds is not None
        candidates = left_to_ask(rows, recipe, choosing.asked)
        if len(candidates) > recipe.rounds.candidates:
            turn = draw(candidates["row_id"], seed=recipe.seed + number, purpose="candidates")
            candidates = candidates[np.argsort(turn, kind="stable")[: recipe.rounds.candidates]]
        found = choose_rows(
            candidates,
            count=choosing.count,
            rules=choosing.rules,
            predictions=_predictions(choosing, candidates) if _BY_STUDENTS & set(choosing.rules) else None,
            asked=rows.filter(pl.col("row_id").is_in(choosing.asked.implode()) & pl.col("split").is_in(CHOOSABLE)),
            inputs=session.task.inputs,
            seed=recipe.seed,
        )
        write_table(found.select(pl.col(name).cast(kind) for name, kind in CHOSEN_SCHEMA.items()), _path(session))
        counts = ", ".join(f"{count:,} by {rule}" for rule, count in rules_of(found).items())
        return Ended(f"{len(found):,} of {len(candidates):,} rows: {counts}")

    rounds = session.recipe.rounds
    assert rounds is not None
    settings = [rounds.rows, choosing.rules, rounds.candidates, sorted(choosing.asked)]
    _stage(session, "choose", settings, _path(session), work)


def choose_suspects(session: Session, *, before: RunFolder, asked_again: pl.Series, asked: pl.Series) -> None:
    """The labels of the round before that are to be asked again, into ``suspects.parquet``. It too is made once."""
    from distill.students.suspects import suspected_errors

    rounds = session.recipe.rounds
    assert rounds is not None and rounds.recheck is not None
    most = rounds.recheck.rows

    def work() -> Ended:
        rows = pl.read_parquet(session.folder.rows)
        able = rows.filter(
            pl.col("split").is_in(CHOOSABLE)
            & pl.col("row_id").is_in(asked.implode())
            & ~pl.col("row_id").is_in(asked_again.implode())
        )
        labels = pl.read_parquet(before.labels)
        # Rows that students are measured on teach nothing here either.
        teaching = rows.filter(pl.col("split").is_in(CHOOSABLE))
        found = suspected_errors(
            teaching, labels, task=session.task, most=most, seed=session.recipe.seed, among=able["row_id"]
        )
        write_table(found, suspects_path(session.folder))
        return Ended(f"{len(found):,} of {len(able):,} labels are doubted")

    settings = [most, sorted(asked), sorted(asked_again)]
    _stage(session, "suspects", settings, suspects_path(session.folder), work)


def rules_of(chosen: pl.DataFrame) -> dict[str, int]:
    """Rows by the rule that chose them."""
    return {str(rule): count for rule, count in chosen.group_by("rule", maintain_order=True).len().iter_rows()}


def _plainly(rows: pl.DataFrame, count: int, *, task: Task, seed: int) -> pl.DataFrame:
    if rows.is_empty() or count < 1:
        return pl.DataFrame(schema=CHOSEN_SCHEMA)
    drawn = choose_rows(rows, count=count, rules={"random": 1.0}, inputs=task.inputs, seed=seed)
    return drawn.select(pl.col(name).cast(kind) for name, kind in CHOSEN_SCHEMA.items())


def _choosable(recipe: Recipe) -> list[str]:
    return [split for split in CHOOSABLE if split in recipe.labeling.splits]


def _predictions(choosing: Choosing, candidates: pl.DataFrame) -> pl.DataFrame:
    from distill.students.student import load_student

    found = []
    for name in choosing.students:
        said = load_student(choosing.before.student(name)).predict(candidates)
        found.append(said.select(pl.lit(name).alias("student"), "row_id", "probs"))
    return pl.concat(found)


def watched_students(recipe: Recipe) -> list[str]:
    """Students that look at candidates: the deciding one; every one where they are to differ."""
    assert recipe.rounds is not None
    return list(recipe.students) if recipe.rounds.choose.get("disagreement") else [deciding_student(recipe)]


def _path(session: Session) -> Path:
    return chosen_path(session.folder)


def _stage(session: Session, key: str, settings: list[object], output: Path, work: Callable[[], Ended]) -> None:
    recipe = session.recipe
    reads = [
        path_digest(session.folder.rows),
        fingerprint(settings),
        recipe.labeling.splits,
        session.task.inputs,
        recipe.seed,
    ]
    session.stage(key, reads=reads, outputs=[output], work=work)
