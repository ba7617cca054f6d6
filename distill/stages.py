"""The stages of a run: rows, labels, measurements, reports.

Asking, training and monitoring have modules of their own: :mod:`distill.label_stage`, :mod:`distill.train_stage`,
:mod:`distill.monitor_stage`.

Each says what it reads, and leaves its tables in the run folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from distill.labeling.task import Task
from distill.recipe import Recipe
from distill.recipe_kinds import for_task
from distill.run_folder import path_digest, table_digest, write_json
from distill.secrets import with_secrets
from distill.session import Ended, Session

if TYPE_CHECKING:
    from distill.labeling.rows.load import RowsSummary
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
    from distill.labeling.rows.load import load_rows, problems_path
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


def merge_votes(session: Session) -> None:
    """Merges the votes into ``labels.parquet``."""
    from distill.labeling.asking.cascade_votes import overruled_left_out, standing_votes
    from distill.merging import merge_as_recipe_says, merging_reads

    recipe, folder, task = session.recipe, session.folder, session.task
    if not recipe.teachers:
        return
    cascade = recipe.labeling.cascade
    overruling = recipe.rounds.recheck.teacher if recipe.rounds and recipe.rounds.recheck else None
    held = session.held_labels

    def work() -> Ended:
        votes = decisive_votes(folder.votes).collect()
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
    from distill.labeling.merging.merge_answers import merge_answers

    task = session.task
    votes, checked, dropped = _checked(session, votes)
    found = merge_answers(votes, task=task, method=session.recipe.aggregate)
    held = session.held_labels
    labels = found.labels if held is None else _with_held(found.labels, pl.read_parquet(held))
    write_table(labels, session.folder.labels)
    parts: list[str] = []
    facts: list[dict[str, Any]] = []
    for single in task.singles:
        own = labels if single.part is None else labels.filter(pl.col("part") == single.part)
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


def catalogue_digests(recipe: Recipe, *beside: Literal["judgments", "clicks"]) -> list[str]:
    """Digests of the files of the recipe's catalogue, and of what is asked beside the products; empty without one."""
    from distill.labeling.queries.catalogue_file import catalogue_files

    config = recipe.data.catalogue if recipe.data else None
    if config is None:
        return []
    config = config.model_copy(update=dict.fromkeys({"judgments", "clicks"} - {*beside}))
    return [path_digest(file) for file in catalogue_files(config)]


def decisive_votes(path: Path) -> pl.LazyFrame:
    """What votes say, whatever they cost and however long they took: all that labels may follow from."""
    votes = pl.scan_parquet(path)
    kept = set(votes.collect_schema().names())  # a folder of an older version has fewer
    return votes.select(name for name in _DECISIVE if name in kept)


def votes_digest(path: Path) -> str:
    """Digest of what votes say."""
    return table_digest(decisive_votes(path))


def _with_held(labels: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """The labels, with those of held rows as they were."""
    line = [name for name in ("row_id", "part") if name in labels.columns]
    new = labels.join(held, on=line, how="anti", nulls_equal=True)
    both = pl.concat([new, held.join(labels, on=line, how="semi", nulls_equal=True)])
    return labels.select(line).join(both, on=line, how="left", maintain_order="left", nulls_equal=True)


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
