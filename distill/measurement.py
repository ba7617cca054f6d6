"""Measures what a run made: students, teachers and merged labels on the test rows, and the ladder of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from distill.estimates import estimate_from_few_labels, estimate_without_labels
from distill.eval.evaluation import evaluate
from distill.eval.ladder import Kind, Ladder, Rung, build_ladder, with_few_labels
from distill.eval.scored import TruthSource, predictions_from_votes, rows_with_merged_truth
from distill.labeling.asking.cascade_votes import CASCADE_CAUSE
from distill.model_cards import write_cards
from distill.recipe import Recipe
from distill.run_folder import RunFolder, write_json
from distill.session import Ended, Session
from distill.students.config import HUMAN, LABELS, StudentConfig
from distill.teachers.config import functions_among


def measure_run(session: Session) -> Ended:
    """Writes ``evaluations.json``, ``ladder.json``, ``label_free.json`` and the students' model cards.

    Against gold where test rows have it; where only a part has, ``few_labels.json`` too. Where none has, against the
    merged labels: that is agreement with the teachers, it ranks students and does not grade them, and every figure says
    so.
    """
    folder, task, recipe = session.folder, session.task, session.recipe
    rows = pl.read_parquet(folder.rows)
    labels = pl.read_parquet(folder.labels) if recipe.teachers else None
    votes = pl.read_parquet(folder.votes) if recipe.teachers else None
    unseen = estimate_without_labels(session, rows, labels=labels, votes=votes)
    truth, rows = rows_with_truth(rows, labels, recipe)
    if truth is None:
        write_cards(session, rows, votes=votes, found={})
        write_json(folder.evaluations, {})
        write_json(folder.ladder, Ladder(rows=[], baseline=None).model_dump(mode="json"))
        return Ended("nothing to measure against: no test row has a gold label or a merged one")
    rungs = []
    for name, kind, trained_on, predictions in _predictors(session, rows, labels=labels, votes=votes, truth=truth):
        found = evaluate(predictions, rows, task=task, truth_source=truth, config=recipe.eval, seed=recipe.seed)
        student = recipe.students.get(name)
        made = made_of(folder, name) if student else {}
        cost = label_cost(student, votes, rows) if student else None
        estimate = unseen.students.get(name) if student else None
        rungs.append(Rung(name, kind, trained_on, predictions, found, cost_usd=cost, estimate=estimate, **made))
        session.progress.step("measured", done=len(rungs), total=None, note=name)
    write_cards(session, rows, votes=votes, found={rung.name: rung.evaluation for rung in rungs})
    ladder = build_ladder(rungs, rows, task=task, config=recipe.eval, seed=recipe.seed)
    few = estimate_from_few_labels(
        session,
        {rung.name: rung.predictions for rung in rungs},
        rows,
        truth=truth,
        labels=labels,
        compare=[(row.name, row.gain_over) for row in ladder.rows if row.gain_over],
    )
    ladder = ladder if few is None else with_few_labels(ladder, few)
    write_json(folder.evaluations, {rung.name: rung.evaluation.model_dump(mode="json") for rung in rungs})
    write_json(folder.ladder, ladder.model_dump(mode="json"))
    size = ladder.rows[0].quality if ladder.rows else None
    said = f"{len(rungs)} judged on {size.rows:,} test rows of {size.groups:,} groups" if size else "nobody to measure"
    said += f", as a part of {few.rows:,}" if few is not None else ""
    return Ended(f"{said}; truth: {truth}", facts={"truth_source": truth, "rungs": len(rungs)})


def rows_with_truth(
    rows: pl.DataFrame, labels: pl.DataFrame | None, recipe: Recipe
) -> tuple[TruthSource | None, pl.DataFrame]:
    """The rows with what they are measured against in ``gold``, and who gave it.

    Gold where any test row has it; else the merged labels, whose truth source is ``teacher``; else None.

    Args:
        rows: Of the run, all splits.
        labels: The merged labels; None where there are none.
        recipe: Of the run, which names who gave the gold labels.
    """
    tested = pl.col("split") == "test"
    if rows.filter(tested)["gold"].is_not_null().any():
        assert recipe.data is not None
        return recipe.data.gold_source, rows
    if labels is not None:
        merged = rows_with_merged_truth(rows, labels)
        if merged.filter(tested)["gold"].is_not_null().any():
            return "teacher", merged
    return None, rows


def _predictors(
    session: Session, rows: pl.DataFrame, *, labels: pl.DataFrame | None, votes: pl.DataFrame | None, truth: TruthSource
) -> Iterator[tuple[str, Kind, str, pl.DataFrame]]:
    """Students in the recipe's order; then, for reference, the teachers and labels that answered test rows."""
    recipe, test = session.recipe, rows.filter(pl.col("split") == "test")
    for name, config in recipe.students.items():
        yield name, config.type, " + ".join(config.train_on), pl.read_parquet(session.folder.predictions(name))
    if truth == "teacher" or votes is None or labels is None:
        return
    asked = votes["teacher"].unique(maintain_order=True).to_list()
    # Functions cover a part of the rows, each another: they have a table of their own.
    functions = set(functions_among(asked, recipe.teachers))
    for name in asked:
        if name in functions:
            continue
        said = predictions_from_votes(votes, name, rows=test)
        if len(said):
            yield name, "teacher", "", said
    merged = labels.join(test.select("row_id"), on="row_id", how="semi").filter(pl.col("label").is_not_null())
    if len(merged) and votes["teacher"].n_unique() > 1:
        yield "merged labels", "labels", "", merged.select("row_id", "label", "probs")


def made_of(folder: RunFolder, name: str) -> dict[str, Any]:
    """Size and speed, from what the stages noted."""
    made: dict[str, Any] = {"size_mb": _size_mb(folder.student(name))}
    for stage, facts in ((f"train:{name}", ("parameters", "train_s")), (f"predict:{name}", ("pairs_per_s",))):
        record = folder.stage(stage)
        made |= {fact: record.facts[fact] for fact in facts if record and fact in record.facts}
    return made


def _size_mb(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def label_cost(student: StudentConfig, votes: pl.DataFrame | None, rows: pl.DataFrame) -> float | None:
    """What the labels that it learned from cost; None where people gave them, or a price is not known.

    Answers on test rows measure and teach nobody.

    Args:
        student: Its section, which says whom it learned from.
        votes: Of the run; None without teachers.
        rows: Of the run, for their splits.

    Returns:
        Dollars that the answers cost when they were bought, also those that the ledger held.
    """
    if votes is None or HUMAN in student.train_on:
        return None
    bought = votes if LABELS in student.train_on else votes.filter(pl.col("teacher").is_in(student.train_on))
    # What was never asked cost nothing, and has no price to be unknown.
    bought = bought.filter((pl.col("cause").fill_null("") != CASCADE_CAUSE) & (pl.col("outcome") != "unsent"))
    bought = bought.join(rows.filter(pl.col("split") == "test").select("row_id"), on="row_id", how="anti")
    if bought.is_empty() or bought["cost_usd"].is_null().any():
        return None
    return float(bought["cost_usd"].sum())
