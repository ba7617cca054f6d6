"""Fills the model cards of a run's students: data, teachers, guideline and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from distill.eval.evaluation import Evaluation
from distill.eval.intervals import Estimate
from distill.eval.queries.facts import PartMeasurement
from distill.eval.report.student_facts import answered_facts
from distill.eval.wording import metric_title
from distill.session import Session
from distill.students.config import HUMAN, LABELS, StudentConfig
from distill.students.model_card import CARD_FILE, CardContext, Figure, SplitSize, TeacherShare, write_card
from distill.students.student_info import StudentInfo


def card_paths(session: Session) -> list[Path]:
    """The card of each of the recipe's students."""
    return [session.folder.student(name) / CARD_FILE for name in session.recipe.students]


def write_cards(
    session: Session,
    rows: pl.DataFrame,
    *,
    votes: pl.DataFrame | None,
    found: dict[str, Evaluation],
    parts: Sequence[PartMeasurement] = (),
) -> None:
    """Writes the card of every student.

    Args:
        session: The run.
        rows: The rows, with what students were measured against in ``gold``.
        votes: Votes of the teachers; None without teachers.
        found: What was measured, by student; a student that is not in it was not.
        parts: What was measured of a task whose answers are no single label, instead.
    """
    splits = _splits(pl.read_parquet(session.folder.rows))
    for name, config in session.recipe.students.items():
        folder = session.folder.student(name)
        context = _context(session, config, splits=splits, votes=votes)
        if name in found:
            context = _measured(session, context, name=name, evaluation=found[name], rows=rows)
        if parts:
            context = _measured_by_part(context, name=name, parts=parts)
        record = session.folder.stage(f"train:{name}")
        if record is not None:
            context = replace(context, train_s=record.facts.get("train_s"))
        write_card(folder, StudentInfo.read(folder), name=name, context=context)


def _measured_by_part(context: CardContext, *, name: str, parts: Sequence[PartMeasurement]) -> CardContext:
    """Main figure of each part. Parts held against merged labels stand on no card beside those that have a truth."""
    known = [part for part in parts if part.truth_source != "teacher"] or list(parts)
    figures = [
        _figure(f"{part.part}, {metric_title(part.metric)}", found)
        for part in known
        for one in part.evaluations
        if one.name == name and (found := one.metrics.get(part.metric)) is not None and found.value is not None
    ]
    return replace(
        context,
        truth_source=known[0].truth_source,
        rows=max(part.rows for part in known),
        groups=max(part.groups for part in known),
        figures=figures,
    )


def _context(
    session: Session, config: StudentConfig, *, splits: Sequence[SplitSize], votes: pl.DataFrame | None
) -> CardContext:
    recipe, task = session.recipe, session.task
    assert recipe.data is not None
    sources = [recipe.data.rows] if isinstance(recipe.data.rows, str) else recipe.data.rows
    learned = [source for source in config.train_on if source != HUMAN]
    return CardContext(
        run=recipe.name,
        # Only the names: the folders are those of whoever ran it.
        sources=[source if source.startswith("hf://") else Path(source).name for source in sources],
        splits=splits,
        teachers=[] if votes is None or not learned else _teachers(session, learned, votes),
        merged_by=recipe.aggregate.type if LABELS in config.train_on else None,
        guideline=(task.guideline.version, task.guideline.sha256) if task.guideline is not None and learned else None,
        gold_source=recipe.data.gold_source,
        level=recipe.eval.level,
    )


def _splits(rows: pl.DataFrame) -> list[SplitSize]:
    sizes = rows.group_by("split", maintain_order=True).agg(
        pl.len(), pl.col("group").n_unique(), pl.col("gold").count()
    )
    return [SplitSize(*size) for size in sizes.sort("split").select("split", "len", "group", "gold").iter_rows()]


def _teachers(session: Session, learned: Sequence[str], votes: pl.DataFrame) -> list[TeacherShare]:
    """Whoever gave a labeled vote outside the test rows, which no student learns from."""
    test = pl.scan_parquet(session.folder.rows).filter(pl.col("split") == "test").select("row_id").collect()
    said = votes.filter(pl.col("outcome") == "labeled").join(test, on="row_id", how="anti")
    if LABELS not in learned:
        said = said.filter(pl.col("teacher").is_in(learned))
    counts = said.group_by("teacher", "family", maintain_order=True).len()
    return [TeacherShare(name, family, _kind(session, name), count) for name, family, count in counts.iter_rows()]


def _kind(session: Session, name: str) -> str:
    config = session.recipe.teachers.get(name)
    if config is None:  # a function or a rule, of a section with several
        return "labeling function"
    model = getattr(config, "model", None)
    return f"{config.type}: {model}" if model else str(config.type)


def _measured(
    session: Session, context: CardContext, *, name: str, evaluation: Evaluation, rows: pl.DataFrame
) -> CardContext:
    figures = [
        Figure(metric, found.value, found.low, found.high)
        for metric, found in evaluation.metrics.items()
        if found.value is not None
    ]
    return replace(
        context,
        truth_source=evaluation.truth_source,
        rows=evaluation.rows,
        groups=evaluation.groups,
        figures=[*figures, *_answered(session, name, rows)],
    )


def _answered(session: Session, name: str, rows: pl.DataFrame) -> list[Figure]:
    """Share of the test rows that a student that abstains answers, and how many of those it answers wrongly."""
    predictions, recipe = pl.read_parquet(session.folder.predictions(name)), session.recipe
    found = answered_facts(predictions, rows, task=session.task, config=recipe.eval, seed=recipe.seed)
    if found is None:
        return []
    named = (("share answered", found.share), ("wrong among answered", found.wrong))
    return [_figure(label, estimate) for label, estimate in named if estimate.value is not None]


def _figure(name: str, found: Estimate) -> Figure:
    assert found.value is not None
    return Figure(name, found.value, found.low, found.high)
