"""Gathers what a run wrote into the report of a task whose answers are no single label."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from distill.eval.ladder import Ladder
from distill.eval.queries.facts import QueryMeasurement
from distill.eval.queries.report import PartMerged, PartOutcomes, QueryFacts, plain, write_query_report
from distill.eval.report.labeling_facts import teacher_facts
from distill.eval.rounds import RoundsFacts
from distill.run_files import file_links
from distill.session import Ended, Session


def write_query_run_report(session: Session, manifest: dict[str, Any]) -> Ended:
    """Writes ``report.html`` with its Markdown and JSON. A guideline review is of single labels, and there is none.

    Args:
        session: The run, measured.
        manifest: What it was made of.
    """
    folder, recipe = session.folder, session.recipe
    votes = pl.read_parquet(folder.votes) if recipe.teachers else None
    merging = folder.stage("aggregate")
    facts = merging.facts if merging and recipe.teachers else {}
    merged = facts.get("parts") or ([facts] if facts else [])
    report = QueryFacts(
        name=recipe.name,
        parts=QueryMeasurement.model_validate_json(folder.evaluations.read_text(encoding="utf-8")).parts,
        ladder=Ladder.model_validate_json(folder.ladder.read_text(encoding="utf-8")).last_round,
        rounds=_rounds(session),
        teachers=[] if votes is None else teacher_facts(votes),
        outcomes=[] if votes is None else _outcomes(votes),
        merged=[PartMerged(**{name: one.get(name) for name in PartMerged.model_fields}) for one in merged],
        checks=facts.get("checks", {}),
        summary=plain(json.loads(folder.rows_summary.read_text(encoding="utf-8"))),
        manifest=plain(manifest),
        files=file_links(session, []),
        level=recipe.eval.level,
    )
    written = write_query_report(folder.report, report)
    return Ended(", ".join(path.name for path in written))


def _rounds(session: Session) -> RoundsFacts | None:
    if session.recipe.rounds is None:
        return None
    return RoundsFacts.model_validate_json(session.folder.rounds.read_text(encoding="utf-8"))


def _outcomes(votes: pl.DataFrame) -> list[PartOutcomes]:
    """By teacher and part, in order of first appearance; parts of which a teacher only abstains are left out."""
    part = pl.col("part") if "part" in votes.columns else pl.lit(None, pl.String).alias("part")
    counted = votes.with_columns(part).group_by("teacher", "family", "part", maintain_order=True)
    found = []
    for (teacher, family, name), own in counted:
        outcomes = dict(own["outcome"].value_counts(sort=True).iter_rows())
        if set(outcomes) != {"abstained"}:
            found.append(PartOutcomes(teacher=str(teacher), family=str(family), part=name, outcomes=outcomes))
    order = {name: place for place, name in enumerate(votes["teacher"].unique(maintain_order=True))}
    return sorted(found, key=lambda one: order[one.teacher])
