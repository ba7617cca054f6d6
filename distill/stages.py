"""The stages of a run: rows, votes, labels, students with their predictions, measurements, reports.

Each says what it reads, and leaves its tables in the run folder.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from distill.labeling.errors import BudgetError, DistillError, InBatchError, TeacherError
from distill.labeling.task import Task
from distill.labeling_show import LabelingShow
from distill.recipe import Recipe
from distill.recipe_kinds import for_task
from distill.run_folder import RunFolder, fingerprint, path_digest, table_digest, write_json
from distill.secrets import with_secrets
from distill.session import Ended, Session

if TYPE_CHECKING:
    from distill.labeling.label_rows import LabelingFacts
    from distill.labeling.rows import RowsSummary
    from distill.labeling.teacher import Teacher
    from distill.students.student import Student

_DECISIVE = (
    *("row_id", "teacher", "family", "outcome", "sample", "label", "probs", "probs_source"),
    *("trace", "trace_problems", "clauses"),
    *("part", "labels", "text", "texts", "spans", "confidence"),
)
"""Columns of a vote that labels follow from. The others (latency, cost, served from the ledger) differ between an
interrupted and an uninterrupted run, and nothing may be done again because of them."""


def ledger_path(recipe_ledger: Path | None = None) -> Path:
    """Where the ledger is: the recipe's word, ``$DISTILL_LEDGER``, or ``.distill/ledger.sqlite`` here."""
    return recipe_ledger or Path(os.environ.get("DISTILL_LEDGER") or ".distill/ledger.sqlite")


def read_rows(session: Session) -> None:
    """Reads the source into ``rows.parquet``; what cannot be used is listed beside it."""
    from distill.labeling.rows import load_rows, problems_path
    from distill.people_labels import files_of_people, take_labels_of_people

    config, folder, slices = session.recipe.data, session.folder, session.recipe.eval.slices
    assert config is not None
    sources = [config.rows] if isinstance(config.rows, str) else list(config.rows)
    digests = [source if source.startswith("hf://") else path_digest(Path(source)) for source in sources]
    digests += catalogue_digests(session.recipe)

    def work() -> Ended:
        summary = load_rows(
            config, task=session.task, out=folder.rows, seed=session.recipe.seed, slices=slices, limit=session.limit
        )
        write_json(folder.rows_summary, summary.to_dict())
        for warning in summary.warnings:
            session.progress.warn(warning)
        taken = take_labels_of_people(session)
        return Ended(f"{_said_of_rows(summary)}{taken.said}", facts=taken.facts)

    elsewhere = dict.fromkeys(("rows", "decisions", "annotations"), True)
    # What judged products say is read where expansions are measured, and clicks where tools answer.
    beside = dict.fromkeys(("rows", "judgments", "clicks"), True)
    settings = config.model_dump(mode="json", exclude={**elsewhere, "catalogue": beside})
    session.stage(
        "data",
        reads=[
            digests,
            files_of_people(session),
            settings,
            session.task.labels,
            session.task.inputs,
            session.task.images,
            *([session.task.basis] if session.task.basis else []),
            session.recipe.seed,
            slices,
            session.limit,
        ],
        outputs=[
            *(folder.rows, folder.rows_summary, problems_path(folder.rows)),
            *([folder.annotations] if config.annotations else []),
        ],
        work=work,
    )


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


def merge_votes(session: Session) -> None:
    """Merges the votes into ``labels.parquet``."""
    from distill.labeling.cascade_votes import overruled_left_out, standing_votes
    from distill.merging import merge_as_recipe_says, merging_reads

    recipe, folder, task = session.recipe, session.folder, session.task
    if not recipe.teachers:
        return
    cascade = recipe.labeling.cascade
    overruling = recipe.rounds.recheck.teacher if recipe.rounds and recipe.rounds.recheck else None
    held = session.held_labels

    def work() -> Ended:
        votes = pl.read_parquet(folder.votes)
        votes = votes if cascade is None else standing_votes(votes, cascade.order)
        votes = votes if overruling is None else overruled_left_out(votes, by=overruling)
        if not task.closed or task.tree is not None:
            return _merge_kinds(session, votes)
        merge = merge_as_recipe_says(session, votes)
        found = merge.merging
        labels = found.labels if held is None else _with_held(found.labels, pl.read_parquet(held))
        write_table(labels, folder.labels)
        merged = labels.filter(pl.col("label").is_not_null())
        n_eff, ties = _mean(merged["n_eff"]), int(merged["tie"].sum())
        said = (
            f"{len(merged):,} of {len(labels):,} rows labeled; their votes are worth {n_eff:.2f} independent ones a row"
        )
        facts = {"rows": len(labels), "labeled": len(merged), "ties": ties, "n_eff": n_eff, "method": found.method}
        facts |= {"warning": found.warning, **merge.facts}
        warning = f"; warning: {found.warning}" if found.warning else ""
        return Ended(
            f"{said}; {ties:,} ties{merge.said}{warning}", facts={**facts, "confidence": _mean(merged["confidence"])}
        )

    session.stage(
        "aggregate",
        reads=[
            votes_digest(folder.votes),
            recipe.aggregate.model_dump(mode="json"),
            task.labels,
            task.ordered,
            cascade and cascade.order,
            overruling,
            held and path_digest(held),
            merging_reads(session),
            *([task.basis] if task.basis else []),
            *(catalogue_digests(recipe) if recipe.aggregate.checks else []),
        ],
        outputs=[folder.labels],
        work=work,
    )


def _merge_kinds(session: Session, votes: pl.DataFrame) -> Ended:
    """Merges answers that are no single label, each part by its kind."""
    from distill.labeling.merge_answers import merge_answers

    task = session.task
    votes, checked, dropped = _checked(session, votes)
    found = merge_answers(votes, task=task, method=session.recipe.aggregate)
    write_table(found.labels, session.folder.labels)
    parts: list[str] = []
    facts: list[dict[str, Any]] = []
    for single in task.singles:
        own = found.labels if single.part is None else found.labels.filter(pl.col("part") == single.part)
        merged = own.filter(pl.col(single.answer_column).is_not_null())
        name = f"{single.part}: " if single.part else ""
        parts.append(f"{name}{len(merged):,} of {len(own):,} rows labeled, {_mean(merged['n_eff']):.2f} votes a row")
        facts.append(
            {
                "part": single.part,
                "rows": len(own),
                "labeled": len(merged),
                "ties": int(merged["tie"].sum()),
                "n_eff": _mean(merged["n_eff"]),
                "confidence": _mean(merged["confidence"]),
                "method": found.methods[single.part],
            }
        )
    whole = {name: sum(fact[name] for fact in facts) for name in ("rows", "labeled", "ties")}
    means = {name: sum(fact[name] for fact in facts) / len(facts) for name in ("n_eff", "confidence")}
    warning = f"; warning: {found.warning}" if found.warning else ""
    method = ", ".join(dict.fromkeys(found.methods.values()))
    return Ended(
        "; ".join([*parts, *checked]) + warning,
        facts={
            **dropped,
            **whole,
            **means,
            "method": method,
            "warning": found.warning,
            "parts": facts if task.parts else [],
        },
    )


def _checked(session: Session, votes: pl.DataFrame) -> tuple[pl.DataFrame, list[str], dict[str, Any]]:
    """Votes without what fails the recipe's checks, what there is to say of that, and counts for the record."""
    from distill.labeling.queries.catalogue_file import open_catalogue
    from distill.labeling.queries.expansion_filter import without_failed_expansions

    data, checks = session.recipe.data, session.recipe.aggregate.checks
    if not checks or data is None or data.catalogue is None:
        return votes, [], {}
    catalogue = open_catalogue(data.catalogue)
    rows = pl.read_parquet(session.folder.rows)
    filtered = without_failed_expansions(
        votes, rows, task=session.task, catalogue=catalogue, k=data.catalogue.neighbours
    )
    return filtered.votes, [filtered.said()], {"checks": filtered.counts}


def measure(session: Session) -> None:
    """Measures students, teachers and labels against gold, into ``evaluations.json``, ``ladder.json`` and the cards."""
    from distill.measurement import measure_run
    from distill.model_cards import card_paths

    if not session.task.closed:
        _measure_query_task(session)
        return
    folder = session.folder
    session.stage(
        "eval",
        reads=[
            path_digest(folder.rows),
            votes_digest(folder.votes) if session.recipe.teachers else None,
            {key: mark for key, mark in session.marks.items() if key.startswith(("predict:", "aggregate"))},
            session.recipe.eval.model_dump(mode="json"),
            session.task.positive,
            session.task.labels,
            session.task.guideline and session.task.guideline.sha256,
            session.recipe.seed,
        ],
        outputs=[folder.evaluations, folder.ladder, folder.label_free, folder.few_labels, *card_paths(session)],
        work=lambda: measure_run(session),
    )


def _measure_query_task(session: Session) -> None:
    """The same where answers are no single label: a part at a time."""
    from distill.model_cards import card_paths
    from distill.query_measurement import measure_query_run

    folder, recipe, data = session.folder, session.recipe, session.recipe.data
    catalogue = data.catalogue if data else None
    session.stage(
        "eval",
        reads=[
            path_digest(folder.rows),
            votes_digest(folder.votes) if recipe.teachers else None,
            {key: mark for key, mark in session.marks.items() if key.startswith(("predict:", "aggregate"))},
            recipe.eval.model_dump(mode="json"),
            session.task.basis,
            catalogue_digests(recipe, "judgments"),
            catalogue and catalogue.judgments and catalogue.judgments.model_dump(mode="json", exclude={"rows"}),
            recipe.seed,
        ],
        outputs=[folder.evaluations, folder.ladder, *card_paths(session)],
        work=lambda: measure_query_run(session),
    )


def write_reports(session: Session) -> None:
    """Writes the run report and, where there are votes, the guideline review."""
    from distill.reporting import write_run_reports

    folder = session.folder
    outputs = [folder.report] + ([folder.review] if session.recipe.teachers and session.task.closed else [])
    session.stage(
        "report",
        reads=[session.marks, session.recipe.report.model_dump(mode="json")],
        outputs=outputs,
        work=lambda: write_run_reports(session),
    )


def _said_of_rows(summary: RowsSummary) -> str:
    splits = ", ".join(f"{count:,} {name}" for name, count in summary.splits.items())
    said = f"{summary.kept:,} rows of {sum(summary.groups.values()):,} groups ({splits})"
    if summary.unusable:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.problems.items())
        said += f"; {summary.unusable:,} cannot be used ({kinds}), listed in {summary.problems_path}"
    if summary.merged:
        said += f"; {summary.merged:,} repeats merged"
    return said


def _ask_failed(session: Session, question: str) -> Ended:
    from distill.labeling.label_rows import LabelingFacts
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
    from distill.labeling.asked_rows import AskedRows
    from distill.labeling.label_rows import label_rows
    from distill.labeling.ledger import Ledger
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
    from distill.labeling.cascade_votes import CASCADE_CAUSE
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


def _read_by_tools(recipe: Recipe) -> list[Any]:
    """Digests of the products and clicks that query tools read, and how the clicks are read."""
    catalogue = recipe.data.catalogue if recipe.data else None
    clicks = catalogue.clicks if catalogue else None
    settings = [clicks.model_dump(mode="json", exclude={"rows"})] if clicks else []
    return [*catalogue_digests(recipe, "clicks"), *settings]


def catalogue_digests(recipe: Recipe, *beside: Literal["judgments", "clicks"]) -> list[str]:
    """Digests of the files of the recipe's catalogue, and of what is asked beside the products; empty without one."""
    from distill.labeling.queries.catalogue_file import catalogue_files

    config = recipe.data.catalogue if recipe.data else None
    if config is None:
        return []
    config = config.model_copy(update=dict.fromkeys({"judgments", "clicks"} - {*beside}))
    return [path_digest(file) for file in catalogue_files(config)]


def votes_digest(path: Path) -> str:
    """Digest of what votes say, whatever they cost and however long they took."""
    votes = pl.scan_parquet(path)
    kept = set(votes.collect_schema().names())  # a folder of an older version has fewer
    return table_digest(votes.select(name for name in _DECISIVE if name in kept))


def _with_held(labels: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """The labels, with those of held rows as they were."""
    new = labels.join(held, on="row_id", how="anti")
    both = pl.concat([new, held.join(labels, on="row_id", how="semi")])
    return labels.select("row_id").join(both, on="row_id", how="left", maintain_order="left")


def _mean(column: pl.Series) -> float:
    mean = column.mean()
    return float(mean) if isinstance(mean, int | float) else 0.0


def build_teachers(recipe: Recipe) -> list[Teacher]:
    """The recipe's teachers, with their secrets read from the environment: one a section, or one a function or rule.

    Raises:
        RecipeError: A variable that a secret names is not set.
        DataError: A file of a teacher cannot be used.
    """
    from distill.teachers import registry

    configs = {
        name: for_task(with_secrets(config, where=f"teachers.{name}"), recipe.task)
        for name, config in recipe.teachers.items()
    }
    catalogue = recipe.data.catalogue if recipe.data else None
    task = Task.from_config(recipe.task) if recipe.task and catalogue else None
    return registry.build_teachers(configs, load_student=student_of_folder, task=task, catalogue=catalogue)


def student_of_folder(path: Path) -> Student:
    """Loads a student for teachers that are one; they may not import students themselves.

    Raises:
        StudentError: There is none, or it is not whole.
    """
    from distill.students.student import load_student

    return load_student(path)


def write_table(table: pl.DataFrame | pl.LazyFrame, path: Path) -> None:
    """Replaces a parquet table whole, so that a kill leaves the old one or the new one."""
    draft = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(table, pl.LazyFrame):
        table.sink_parquet(draft)
    else:
        table.write_parquet(draft)
    os.replace(draft, path)
