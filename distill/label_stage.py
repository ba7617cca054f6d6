"""The labeling stage: every teacher is asked about every row, into ``votes.parquet``."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from distill.labeling.errors import BudgetError, DistillError, InBatchError, TeacherError
from distill.labeling_show import LabelingShow
from distill.run_folder import RunFolder, fingerprint, path_digest
from distill.session import Ended, Session
from distill.stages import build_teachers, catalogue_digests, ledger_path, write_table

if TYPE_CHECKING:
    from distill.labeling.asking.label_rows import LabelingFacts
    from distill.recipe import Recipe


def label(session: Session) -> None:
    """Asks every teacher about every row of the splits named, into ``votes.parquet``."""
    from distill.teachers.registry import files_of

    recipe, folder, task = session.recipe, session.folder, session.task
    if not recipe.teachers:
        return
    settings = {name: config.model_dump(mode="json") for name, config in recipe.teachers.items()}
    for name, values in settings.items():
        values["files"] = [path_digest(file) for file in files_of(recipe.teachers[name])]
        values["files"] += _read_by_tools(recipe) if values["type"] == "query_tools" else []
        values.pop("path", None)
        values.pop("budget_usd", None)
    asked = [
        task.labels,
        task.inputs,
        task.images,
        task.positive,
        task.instructions,
        task.guideline and task.guideline.sha256,
    ]
    asked += task.basis
    rows = path_digest(folder.rows)
    question = fingerprint([rows, asked])
    more = [recipe.seed, path_digest(session.examples) if session.examples and recipe.labeling.examples else None]
    # Asking again what failed asks no canary: the answers to those there are stay.
    canaries = recipe.labeling.canaries is not None and (not session.retry_failed or folder.canaries.exists())
    session.stage(
        "label",
        # A budget that ended the asking has left its mark on the record; otherwise it changed no answer.
        reads=[rows, asked, settings, recipe.labeling.model_dump(mode="json", exclude={"budget_usd"}), *more],
        outputs=[folder.votes, folder.failures, *([folder.canaries] if canaries else [])],
        work=lambda: _ask_failed(session, question) if session.retry_failed else _ask(session, question),
        again=session.retry_failed,
    )


def _read_by_tools(recipe: Recipe) -> list[Any]:
    """Digests of the products and clicks that query tools read, and how the clicks are read."""
    catalogue = recipe.data.catalogue if recipe.data else None
    clicks = catalogue.clicks if catalogue else None
    settings = [clicks.model_dump(mode="json", exclude={"rows"})] if clicks else []
    return [*catalogue_digests(recipe, "clicks"), *settings]


def _ask_failed(session: Session, question: str) -> Ended:
    from distill.labeling.asking.label_rows import LabelingFacts
    from distill.retry import failures_to_retry

    failures = failures_to_retry(session.folder, question=question)
    record = session.folder.stage("label")
    assert record is not None
    if failures.is_empty():
        return Ended("nothing had failed, every vote is kept", facts=record.facts, final=record.final)
    ended = _ask(session, question, failures)
    # Votes of two settings: asking again for those that were kept is what the caller said not to do.
    mixed = bool(record.facts.get("mixed")) or record.fingerprint != session.marks["label"]
    # What canaries, gold rows and shared answers told of all rows is not told again by the few that failed.
    kept = {name: value for name, value in record.facts.items() if name in LabelingFacts.NAMES}
    facts = {name: value for name, value in ended.facts.items() if name not in LabelingFacts.NAMES}
    return replace(ended, facts={**facts, **kept, "mixed": mixed}, final=ended.final or mixed)


def _ask(session: Session, question: str, failures: pl.DataFrame | None = None) -> Ended:
    """Asks every teacher about every row, or only about what failed."""
    from distill.labeling.asking.asked_rows import AskedRows
    from distill.labeling.asking.label_rows import label_rows
    from distill.labeling.ledger.ledger import Ledger
    from distill.retry import only_failed

    folder, config, rows = session.folder, session.recipe.labeling, pl.scan_parquet(session.folder.rows)
    if failures is not None:
        together = config.rows_per_request
        unchecked = together and together.model_copy(update={"check": 0.0, "check_at_least": 0})
        config = config.model_copy(
            update={"canaries": None, "watch": None, "cascade": None, "rows_per_request": unchecked}
        )
    shown = pl.scan_parquet(session.examples) if session.examples else None
    asked = AskedRows(
        rows, task=session.task, config=config, seed=session.recipe.seed, splits=config.splits, examples_from=shown
    )
    _warn_of_unseen_costs(session)
    teachers = build_teachers(session.recipe)
    parts = folder.path / "votes.parts"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    numbers = itertools.count()
    with Ledger(ledger_path(session.recipe.ledger)) as ledger:
        labeled = label_rows(
            asked,
            teachers=teachers if failures is None else only_failed(teachers, failures),
            ledger=ledger,
            on_votes=lambda votes: votes.write_parquet(parts / f"{next(numbers):09d}.parquet"),
            on_progress=LabelingShow(session.progress, session.folder.note),
        )
    _write_votes(session, parts, failures, teachers=[teacher.name for teacher in teachers])
    shutil.rmtree(parts)
    if failures is None:
        _write_canaries(labeled, folder)
        for note in labeled.notes:
            session.progress.warn(note)
    ended = _labeling_ended(labeled, folder)
    return replace(ended, facts={**ended.facts, "question": question})


def _write_canaries(labeled: LabelingFacts, folder: RunFolder) -> None:
    if labeled.canaries is None:
        folder.canaries.unlink(missing_ok=True)
    else:
        write_table(labeled.canaries, folder.canaries)


def _warn_of_unseen_costs(session: Session) -> None:
    from distill.teachers.model_config import ModelTeacherConfig

    labeling = session.recipe.labeling
    unpriced = {
        name: config
        for name, config in session.recipe.teachers.items()
        if isinstance(config, ModelTeacherConfig) and config.known_price is None
    }
    for name, config in unpriced.items():
        session.progress.warn(
            f"teacher {name}: what {config.model} costs is not known, so its cost is counted nowhere; give "
            f"teachers.{name}.price (0 where it costs nothing)"
        )
    limits = {
        "labeling.budget_usd": labeling.budget_usd,
        "labeling.quota.usd_per_minute": labeling.quota and labeling.quota.usd_per_minute,
    }
    for key, limit in limits.items():
        if unpriced and limit is not None:
            session.progress.warn(
                f"{key} cannot see what {', '.join(unpriced)} costs: give teachers.{next(iter(unpriced))}.price"
            )


def _write_votes(session: Session, parts: Path, failures: pl.DataFrame | None, *, teachers: list[str]) -> None:
    """Puts votes in the order of the rows: they arrive in the order of the answers, which no two runs share."""
    from distill.labeling.asking.cascade_votes import CASCADE_CAUSE
    from distill.labeling.vote import part_place, stored_columns
    from distill.retry import merged_votes

    folder = session.folder
    order = pl.scan_parquet(folder.rows).select("row_id").with_row_index("_row")
    fresh = pl.scan_parquet(parts / "*.parquet")
    votes = (
        (fresh if failures is None else merged_votes(folder.votes, parts, failures))
        .join(order, on="row_id", how="left")
        .with_columns(
            pl.col("teacher").replace_strict(teachers, range(len(teachers)), default=len(teachers)).alias("_teacher")
        )
        .sort("_row", "_teacher", "sample", part_place(session.task))
        .drop("_row", "_teacher")
    )
    kept = set(stored_columns(session.task))
    votes = votes.select(name for name in votes.collect_schema().names() if name in kept)
    write_table(votes, folder.votes)
    # Who abstains has answered, and would say the same again.
    spared = pl.col("cause").fill_null("") == CASCADE_CAUSE
    failed = pl.scan_parquet(folder.votes).filter(
        ~pl.col("outcome").is_in(["labeled", "explained", "abstained"]) & ~spared
    )
    named = ["part"] if session.task.parts else []
    failed.select("row_id", "teacher", "sample", *named, "outcome", "cause", "reason").sink_ndjson(folder.failures)


def _labeling_ended(labeled: LabelingFacts, folder: RunFolder) -> Ended:
    result = labeled.result
    ends = pl.scan_parquet(folder.votes).group_by("outcome", "cause").len().sort("outcome", "cause").collect()
    outcomes: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    for outcome, cause, count in ends.iter_rows():
        outcomes[outcome] += count
        if cause is not None:
            causes[cause] += count
    stopped = {name: tally.stopped for name, tally in result.teachers.items() if tally.stopped}
    facts = {
        "outcomes": dict(outcomes),
        "causes": dict(causes),
        "requests_sent": result.requests_sent,
        "ledger_hits": result.ledger_hits,
        "cost_usd": result.cost_usd,
        "unpriced": sum(tally.unpriced for tally in result.teachers.values()),
        "stopped": stopped,
        "elapsed_s": round(result.elapsed_s, 3),
        **labeled.to_dict(),
    }
    said = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
    said += f"; {result.requests_sent:,} requests sent, {result.ledger_hits:,} answers from the ledger"
    if labeled.cascade is not None:
        said += f"; {labeled.cascade.said()}"
    for name, found in labeled.breaches.items():
        if found.breached.trials:
            said += f"; {name} obeyed {found.breached.successes:,} of {found.breached.trials:,} planted orders"
    for name, packed in labeled.packing.items():
        if packed.packs:
            said += f"; {name} answered {packed.rows:,} rows in {packed.packs:,} requests about several"
    error: DistillError | None = None
    stops = [f"{name}: {reason}" for name, reason in stopped.items()]
    if result.stopped == "budget":
        error = BudgetError("; ".join(stops) or "labeling.budget_usd: spent; raise it and run the same command again")
    elif result.stopped == "in_batch":
        error = InBatchError("; ".join(stops) or "labeling: batch jobs are under way; the same command picks them up")
    elif not (outcomes["labeled"] or outcomes["explained"]) and outcomes.total() > outcomes["abstained"]:
        told, where = "; ".join(stops) or _commonest_reason(folder.failures), folder.failures
        error = TeacherError(f"labeling: no teacher labeled any row ({said}): {told}; every reason is in {where}")
    settled = not outcomes["failed"] and not stops and result.stopped is None
    return Ended(said, facts=facts, final=settled, error=error)


def _commonest_reason(failures: Path) -> str:
    reasons = pl.scan_ndjson(failures).group_by("reason").len().sort("len", "reason", descending=[True, False])
    return str(reasons.head(1).collect()["reason"].item())
