"""Writes everything that comes of a guideline review: the report, the page to decide on, the table of contested
rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from distill.annotations import Annotations
from distill.eval.config import EvalConfig, ReportConfig
from distill.eval.guideline.adjudication import (
    cases_to_decide,
    guideline_examples,
    read_decisions,
    with_decisions,
    write_adjudication_page,
)
from distill.eval.guideline.diagnosis import diagnose
from distill.eval.guideline.edit_trial import Tried, write_trials
from distill.eval.guideline.history import GuidelineHistory, guideline_history
from distill.eval.guideline.review import review
from distill.eval.guideline.review_report import write_review_report
from distill.eval.page import write_whole
from distill.eval.people.annotation_files import spreadsheet_safe
from distill.labeling.errors import UsageError
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task


@dataclass(frozen=True)
class ReviewSettings:
    """How a review is made.

    Attributes:
        labels: Merged labels, shown beside the rows; None without.
        report_href: Address of the run report, relative to the review; None without one.
        decisions: Files that people saved on the page; what they decided counts as gold, and becomes examples.
        tried: Edits that were tried; None without.
        eval: Resamples and level of the intervals.
        report: How many rows are shown, and how long a cell may be.
        seed: Of the resamples.
        earlier: Files of earlier texts of the guideline, oldest first.
    """

    labels: pl.DataFrame | None = None
    report_href: str | None = None
    decisions: tuple[Path, ...] = ()
    tried: Tried | None = None
    eval: EvalConfig = field(default_factory=EvalConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    seed: int = 0
    earlier: tuple[Path, ...] = ()


def write_review_files(
    path: Path,
    votes: pl.DataFrame,
    rows: pl.DataFrame,
    *,
    name: str,
    task: Task,
    settings: ReviewSettings,
) -> list[Path]:
    """Reviews votes and writes what comes of it.

    Args:
        path: The HTML file of the review. Beside it come the same numbers as Markdown and JSON,
            ``<stem>_decide.html`` (the page on which a person decides) and ``<stem>_contested.csv`` (every contested
            row with what is likely behind it, to be sorted in a spreadsheet). With decisions also
            ``<stem>_examples.md`` (what was decided, as examples under the clauses that decide it), and with edits
            ``<stem>_edits.json`` and ``.md``.
        votes: The votes table.
        rows: The rows table.
        name: Of the run, or of the set of votes.
        task: What was asked.
        settings: The rest.

    Raises:
        DataError: No row was labeled by two judges, or a guideline cannot be read.
        UsageError: Earlier guidelines are given, and there is none in force.
    """
    decided = read_decisions(settings.decisions, task=task) if settings.decisions else None
    rows = rows if decided is None else with_decisions(rows, decided)
    found = review(votes, rows, task=task, labels=settings.labels, config=settings.eval, seed=settings.seed)
    if settings.earlier:
        found = found.model_copy(update={"history": _history(votes, task, settings.earlier)})
    decide = path.with_name(f"{path.stem}_decide.html")
    written = write_review_report(
        path,
        found,
        name=name,
        config=settings.report,
        report_href=settings.report_href,
        adjudicate_href=decide.name if found.telling else None,
        tried=settings.tried,
    )
    if settings.tried is not None:
        written += write_trials(settings.tried, path.with_name(f"{path.stem}_edits.json"))
    if found.telling:
        written.append(
            write_adjudication_page(decide, cases_to_decide(found), name=name, task=task, review_href=path.name)
        )
    contested = path.with_name(f"{path.stem}_contested.csv")
    query = rows.select("row_id", pl.col(task.inputs[0]).cast(pl.String).alias("query"))
    table = diagnose(votes, rows, task=task).join(query, on="row_id", how="left", maintain_order="left")
    written.append(write_whole(contested, spreadsheet_safe(table).write_csv()))
    if decided is not None and task.guideline is not None:
        examples = guideline_examples(decided, rows, task=task, guideline=task.guideline)
        written.append(write_whole(path.with_name(f"{path.stem}_examples.md"), examples))
    return written


def _history(votes: pl.DataFrame, task: Task, earlier: Sequence[Path]) -> GuidelineHistory:
    if task.guideline is None:
        raise UsageError(
            "--history: there is no guideline in force to compare with; give task.guideline or --guideline"
        )
    return guideline_history(votes, [*map(Guideline.load, earlier), task.guideline])


def review_annotations(
    table: Annotations, out: Path, *, decisions: Sequence[Path] = (), history: Sequence[Path] = ()
) -> list[Path]:
    """Reviews a table of annotations, as people keep them.

    Args:
        table: From :func:`distill.annotations.read_annotations`.
        out: The HTML file; the others stand beside it.
        decisions: Files that people saved on the page.
        history: Files of earlier texts of the guideline, oldest first.

    Raises:
        DataError: No row was labeled by two judges, or a file holds no decisions.
    """
    settings = ReviewSettings(decisions=tuple(decisions), earlier=tuple(history))
    return write_review_files(out, table.votes, table.rows, name=table.name, task=table.task, settings=settings)
