"""Gathers what a run wrote into its two reports."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl

from distill.agreement import JudgeTables, measured, people_beside_run
from distill.estimates import read_few_labels, read_label_free
from distill.eval.evaluation import Evaluation
from distill.eval.ladder import Ladder
from distill.eval.people.agreement import EPSILON, PeopleAgreement
from distill.eval.report.facts import RunReport
from distill.eval.report.run_report import write_run_report
from distill.eval.rounds import RoundsFacts
from distill.labeling.errors import DataError
from distill.measurement import rows_with_truth
from distill.review_files import ReviewSettings, write_review_files
from distill.run_files import file_links, student_facts
from distill.runs import Run
from distill.session import Ended, Session
from distill.teachers.config import functions_among

_SAID_APART = frozenset({"breaches", "quality", "shared", "sharing_wrong", "requests_cut", "fields_cut", "cascade"})
"""Facts of the labeling stage that the report has a place of its own for."""


def write_run_reports(session: Session) -> Ended:
    """Writes the run report and, where two judges labeled the same rows, the guideline review."""
    if not session.task.closed:
        from distill.query_reporting import write_query_run_report

        return write_query_run_report(session, _made_of(session))
    folder, recipe, task = session.folder, session.recipe, session.task
    votes = pl.read_parquet(folder.votes) if recipe.teachers else None
    labels = pl.read_parquet(folder.labels) if recipe.teachers else None
    rows, merging = pl.read_parquet(folder.rows), folder.stage("aggregate")
    written = []
    if votes is not None:
        try:
            settings = ReviewSettings(labels, folder.report.name, (), None, recipe.eval, recipe.report, recipe.seed)
            written += write_review_files(folder.review, votes, rows, name=recipe.name, task=task, settings=settings)
        except DataError as error:
            session.progress.warn(f"no guideline review: {error}")
    _, with_truth = rows_with_truth(rows, labels, recipe)
    evaluations = json.loads(folder.evaluations.read_text(encoding="utf-8"))
    report = RunReport(
        name=recipe.name,
        task=task,
        rows=with_truth,
        ladder=Ladder.model_validate_json(_ladder_path(session).read_text(encoding="utf-8")),
        evaluations={name: Evaluation.model_validate(value) for name, value in evaluations.items()},
        votes=votes,
        labels=labels,
        predictions={name: pl.read_parquet(folder.predictions(name)) for name in recipe.students},
        summary=json.loads(folder.rows_summary.read_text(encoding="utf-8")),
        manifest=_made_of(session),
        review_href=os.path.relpath(folder.review, folder.path) if written else None,
        eval_config=recipe.eval,
        config=recipe.report,
        seed=recipe.seed,
        canaries=pl.read_parquet(folder.canaries) if recipe.teachers and recipe.labeling.canaries else None,
        labeling_functions=[] if votes is None else functions_among(votes["teacher"].unique(), recipe.teachers),
        merging=merging.facts if merging and labels is not None else {},
        students={name: student_facts(session, name) for name in recipe.students},
        people=_people(session, rows, votes=votes, labels=labels),
        files=file_links(session, written),
        label_free=read_label_free(folder),
        few_labels=read_few_labels(folder),
        drift=Run(folder.path).drift if recipe.monitor else None,
        labeling=labeling.facts if recipe.teachers and (labeling := folder.stage("label")) else {},
        rounds=_rounds(session),
    )
    written = [*write_run_report(folder.report, report), *written]
    return Ended(", ".join(path.name for path in written))


def _rounds(session: Session) -> RoundsFacts | None:
    if session.recipe.rounds is None:
        return None
    return RoundsFacts.model_validate_json(session.folder.rounds.read_text(encoding="utf-8"))


def _ladder_path(session: Session) -> Path:
    """The ladder to report: of a run with rounds that of the last one, which compares students of one round."""
    rounds = _rounds(session)
    return session.folder.ladder if rounds is None else session.folder.round(len(rounds.rounds) - 1).ladder


def _people(
    session: Session, rows: pl.DataFrame, *, votes: pl.DataFrame | None, labels: pl.DataFrame | None
) -> PeopleAgreement | None:
    folder, recipe = session.folder, session.recipe
    if not folder.annotations.exists():
        return None
    annotations = pl.read_parquet(folder.annotations)
    judges = JudgeTables(
        votes=votes,
        labels=labels,
        predictions={name: pl.read_parquet(folder.predictions(name)) for name in recipe.students},
        leave_out=[] if votes is None else functions_among(votes["teacher"].unique(), recipe.teachers),
    )
    judged = people_beside_run(annotations, rows, judges, task=session.task)
    if not judged.people:
        return None
    return measured(judged, annotations, config=recipe.eval, epsilon=EPSILON, seed=recipe.seed)


def _made_of(session: Session) -> dict[str, Any]:
    """The manifest, with the stages and the recipe."""
    stages = {}
    for key in session.folder.stages:
        record = session.folder.stage(key)
        if record is not None and key in session.marks:
            facts = {name: value for name, value in record.facts.items() if name not in _SAID_APART}
            stages[key] = {"seconds": record.seconds, **facts}
    return {**session.folder.manifest, "stages": stages, "recipe": session.recipe.document()}
