"""Merges a run's votes as its recipe says: the votes, a student beside them, and gold for how sure they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl

from distill.labeling.merging.aggregate import Merging, merge
from distill.labeling.merging.aggregate_config import StudentVoteConfig
from distill.run_folder import lines_digest
from distill.session import Session
from distill.student_vote import StudentVote, student_vote

FEWEST_GOLD = 50
"""Gold rows from which calibrating helps. Of three sets with one LLM or one family, log loss on the test rows fell on
all with 50 rows (0.335 to 0.323, 0.985 to 0.938, 1.056 to 1.038), and on none with 20 (docs/merging.md)."""


class Merged(NamedTuple):
    """What came of a merge.

    Attributes:
        merging: Labels, method, dependence, warning.
        said: Clauses for the stage's line, each with its separator; empty where only votes spoke.
        facts: Of gold and student, for the stage's record.
    """

    merging: Merging
    said: str
    facts: dict[str, Any]


def merge_as_recipe_says(session: Session, votes: pl.DataFrame) -> Merged:
    """Merges the votes, lets a student vote too and calibrates by gold where the recipe asks for it.

    Args:
        session: The run, whose rows are there.
        votes: Its votes, as they stand.
    """
    settings, task = session.recipe.aggregate, session.task
    alone = merge(votes, labels=task.labels, method=settings.of_votes_alone(), ordered=task.ordered)
    vote = None if settings.student is None else _student(session, alone.labels, settings.student)
    gold, used = _gold(session, alone.labels)
    predictions = None if vote is None else vote.predictions
    facts: dict[str, Any] = {} if used is None else {"gold": used}
    if vote is not None:
        facts["student"] = {"model": vote.model, "folds": vote.folds, "learned": vote.learned, "changed": 0}
    if predictions is None and gold is None:
        return Merged(alone, "", facts)
    merging = merge(
        votes,
        labels=task.labels,
        method=settings.of_votes_alone(),
        ordered=task.ordered,
        gold=gold,
        predictions=predictions,
    )
    said = ""
    if vote is not None and predictions is not None:
        before = alone.labels.select("row_id", _before="label")
        changed = merging.labels.join(before, on="row_id").filter(pl.col("label") != pl.col("_before")).height
        facts["student"]["changed"] = changed
        said += f"; {vote.model} voted too, by {vote.folds} parts of the queries: {changed:,} labels changed"
    if gold is not None and used is not None:
        stated, now = (_confidence(labels) for labels in (alone.labels, merging.labels))
        used |= {"confidence_before": stated, "confidence_after": now}
        said += f"; calibrated on {used['rows']:,} gold rows of {used['groups']:,} groups: {100 * stated:.0f}% sure on "
        said += f"average before, {100 * now:.0f}% now"
    return Merged(merging, said, facts)


def merging_reads(session: Session) -> list[Any]:
    """What a merge reads beside the votes, as plain values: only what the recipe has it read."""
    settings = session.recipe.aggregate
    rows = pl.scan_parquet(session.folder.rows)
    reads: list[Any] = []
    if settings.gold_splits:
        gold = rows.filter(pl.col("split").is_in(list(settings.gold_splits)) & pl.col("gold").is_not_null())
        reads.append(lines_digest(gold.select("row_id", "gold")))
    if settings.student is not None:
        reads += [lines_digest(rows.select("row_id", "group", "split", *session.task.inputs)), session.recipe.seed]
        named = session.recipe.students.get(settings.student.name or "")
        reads.append(named.model_dump(mode="json") if named is not None else None)
    return reads


def _student(session: Session, labels: pl.DataFrame, settings: StudentVoteConfig) -> StudentVote:
    vote = student_vote(session, labels, settings)
    if vote.predictions is None:
        session.progress.warn(
            f"aggregate.student: the {vote.learned:,} labeled rows outside splits test and audit are of fewer than two "
            "groups or of one label, and teach nothing; the student did not vote"
        )
    return vote


def _gold(session: Session, labels: pl.DataFrame) -> tuple[pl.DataFrame | None, dict[str, Any] | None]:
    """Gold to calibrate by, and facts; neither where the recipe asks for none, no gold where there is too little."""
    splits = session.recipe.aggregate.gold_splits
    if not splits:
        return None, None
    merged = labels.filter(pl.col("label").is_not_null())
    known = (
        pl.scan_parquet(session.folder.rows)
        .filter(pl.col("split").is_in(list(splits)) & pl.col("gold").is_in(list(session.task.labels)))
        .select("row_id", "group", "gold")
        .collect()
        .join(merged.select("row_id"), on="row_id", how="semi")
    )
    enough = len(known) >= FEWEST_GOLD
    facts = {"rows": len(known), "groups": known["group"].n_unique(), "splits": list(splits), "used": enough}
    if not enough:
        session.progress.warn(
            f"aggregate.gold: {len(known):,} rows of split {' and '.join(splits)} have votes and gold, calibrating "
            f"takes {FEWEST_GOLD}; confidence stays as the votes state it"
        )
        return None, facts
    return known.select("row_id", "gold"), facts


def _confidence(labels: pl.DataFrame) -> float:
    mean = labels.filter(pl.col("label").is_not_null())["confidence"].mean()
    return float(mean) if isinstance(mean, int | float) else 0.0
