"""Rows of today against those that a student knows: reads both sets, has students answer, compares them.

The statistics are in :mod:`distill.eval.drift.comparison`; here are files, run folders and students.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from distill.eval.drift.config import EVERY_SPLIT, DriftConfig, MonitorConfig
from distill.labeling.errors import DataError, RunFolderError, UsageError
from distill.labeling.rows.data_config import DataConfig, as_names
from distill.labeling.task import Task

if TYPE_CHECKING:
    from distill.eval.drift.comparison import StudentSets
    from distill.eval.drift.facts import DriftReport
    from distill.eval.drift.sample import Sampled
    from distill.eval.scored import TruthSource
    from distill.recipe import Recipe
    from distill.runs import Run
    from distill.students.student import Student

_LEARNED_FROM = ("train", "pool")


@dataclass(frozen=True)
class Watched:
    """What is compared.

    Attributes:
        data: How the rows of today are read: ``rows`` and all that follows from it.
        task: Names the inputs and labels.
        config: What is today, what it is held against, and how.
        slices: Further columns, used where today's rows have them.
        seed: Of samples and exchanges.
        run_rows: The rows table of the run, where the reference is a split of it.
        problems: Where rows that cannot be used are listed.
    """

    data: DataConfig
    task: Task
    config: MonitorConfig
    slices: tuple[str, ...]
    seed: int
    run_rows: Path | None
    problems: Path


@dataclass(frozen=True)
class BothSets:
    """The two sets as they were sampled.

    Attributes:
        reference: What today is held against.
        current: The rows of today.
        slices: Columns that both have.
        notes: What a reader should know of how they came about.
    """

    reference: Sampled
    current: Sampled
    slices: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Monitored:
    """A comparison, and today's rows with their predictions.

    Attributes:
        report: What was found.
        rows: The rows of today that were looked at.
        predictions: Of each student on them, by name.
    """

    report: DriftReport
    rows: pl.DataFrame
    predictions: dict[str, pl.DataFrame]


def monitor(watched: Watched, students: Sequence[tuple[str, Student]], *, known: Path | None = None) -> Monitored:
    """Compares today's rows with the reference.

    Args:
        watched: What is compared.
        students: None, one, or two of which the second is there to disagree with the first.
        known: Folder of a run's ``predictions``: those of the test rows are not made again.

    Raises:
        DataError: A set is empty, or lacks a column.
        StudentError: A student cannot answer.
    """
    from distill.eval.drift.comparison import compare_rows

    sets = read_sets(watched)
    answered = [
        (
            name,
            _predicted(student, sets.reference.rows, known and known / f"{name}.parquet"),
            student.predict(sets.current.rows),
        )
        for name, student in students
    ]
    report = compare_rows(
        sets.reference,
        sets.current,
        task=watched.task,
        predictions=_student_sets(answered, watched.data.gold_source),
        slices=sets.slices,
        config=watched.config.drift,
        seed=watched.seed,
    )
    report = report.model_copy(
        update={
            "notes": sets.notes,
            "reference": report.reference.model_copy(update={"name": _reference_name(watched.config)}),
            "current": report.current.model_copy(update={"name": _current_name(watched.config)}),
        }
    )
    return Monitored(report, sets.current.rows, {name: now for name, _, now in answered})


def monitor_run(
    run: Run, config: MonitorConfig, *, problems: Path, recipe: Recipe | None = None, slices: Sequence[str] = ()
) -> Monitored:
    """Compares rows with those of a finished run.

    Args:
        run: The run.
        config: What is compared.
        problems: Where rows that cannot be used are listed.
        recipe: The run's recipe, where it is read already.
        slices: Columns to compare beside the inputs and the run's own slices.

    Raises:
        UsageError: The student is not one of the run's.
        DataError: A set cannot be used.
    """
    recipe = recipe or run.recipe
    assert recipe.data is not None and recipe.task is not None, "a run's recipe has data and a task"
    watched = Watched(
        data=recipe.data,
        task=Task.from_config(recipe.task),
        config=config,
        slices=tuple(dict.fromkeys([*recipe.eval.slices, *slices])),
        seed=recipe.seed,
        run_rows=run.folder.rows,
        problems=problems,
    )
    names = chosen_students(config, run.students, best=best_student(run))
    return monitor(watched, [(name, run.student(name)) for name in names], known=run.folder.predictions("any").parent)


def monitor_student(
    folder: Path, config: MonitorConfig, *, problems: Path, columns: Mapping[str, str], slices: Sequence[str] = ()
) -> Monitored:
    """Compares two files, or two times of one, with a student that stands alone.

    Args:
        folder: The student's.
        config: What is compared; its reference must be files, or a time.
        problems: Where rows that cannot be used are listed.
        columns: Name used here: name in the files.
        slices: Columns to compare beside the student's inputs.

    Raises:
        UsageError: The reference is a split of a run.
        StudentError: The folder holds no student.
        DataError: A set cannot be used.
    """
    from distill.students.student import load_student

    student = load_student(folder)
    watched = Watched(
        data=DataConfig(rows=config.rows, gold=config.gold, columns=dict(columns)),
        task=student.task,
        config=config,
        slices=tuple(slices),
        seed=student.info.seed,
        run_rows=None,
        problems=problems,
    )
    return monitor(watched, [(folder.name, student)])


def best_student(run: Run) -> str | None:
    """The student that leads the run's ladder; the last one where nothing was measured, None without students."""
    best = run.ladder.best if run.has_ladder else None
    if best is not None and best.name in run.students:
        return best.name
    return run.students[-1] if run.students else None


def chosen_students(config: MonitorConfig, students: Sequence[str], *, best: str | None) -> list[str]:
    """Names of the students to ask: the one of the section, or the best, and the second one where one is named.

    Raises:
        UsageError: There is none of this name.
    """
    wanted = [name for name in (config.student or best, config.other_student) if name is not None]
    for name in wanted:
        if name not in students:
            raise UsageError(f"monitor: no student {name!r}; there are {', '.join(students) or 'none'}")
    # The best one may be the other one itself: it never disagrees with itself.
    return list(dict.fromkeys(wanted))


def read_sets(watched: Watched) -> BothSets:
    """Reads both sets, a sample of their groups at most. Memory does not grow with the files.

    Raises:
        DataError: A set is empty, or lacks a column.
    """
    config = watched.config
    today, slices, notes = _data_of(watched, config.rows, extra=as_names(config.time))
    reference: Iterator[pl.DataFrame]
    current: Iterator[pl.DataFrame]
    if config.time is not None:
        reference = (part.filter(~now) for part, now in _timed(watched, today))
        current = (part.filter(now) for part, now in _timed(watched, today))
    else:
        reference, slices = _reference(watched, slices)
        current = _stream(watched, today)
    before = _sample(reference, config, watched.seed, None)
    now = _sample(current, config, watched.seed, before)
    for sampled, name in ((before, "the reference"), (now, "today's rows")):
        if sampled.rows.is_empty():
            raise DataError(
                f"monitor: {name} ({watched.config.rows}, {config.reference}): no rows are left; {_why(config)}"
            )
    return BothSets(before, now, slices, tuple(notes))


def _why(config: MonitorConfig) -> str:
    if config.time is not None:
        return f"check monitor.time ({config.time}) and monitor.since ({config.since})"
    return "check monitor.rows and monitor.reference"


def _sample(batches: Iterator[pl.DataFrame], config: DriftConfig, seed: int, first: Sampled | None) -> Sampled:
    from distill.eval.drift.sample import GroupSample

    sample = GroupSample(
        most_groups=config.max_groups,
        rows_per_group=config.rows_per_group,
        below=first.share if first else 1.0,
        always=first.rows["group"] if first and not first.rows.is_empty() else None,
        seed=seed,
    )
    for batch in batches:
        if len(batch):
            sample.add(batch)
    return sample.finish()


def _reference(watched: Watched, slices: tuple[str, ...]) -> tuple[Iterator[pl.DataFrame], tuple[str, ...]]:
    reference = watched.config.reference
    if not watched.config.on_a_split:
        data, there, _ = _data_of(watched, reference, extra=())
        return _stream(watched, data), tuple(name for name in slices if name in there)
    if watched.run_rows is None:
        raise UsageError(
            f"monitor: the reference {reference!r} is a split of a run, and a student's folder has none; give "
            "--reference FILE, or --time and --since, or the run's folder in place of the student's"
        )
    if not watched.run_rows.exists():
        raise RunFolderError(f"{watched.run_rows}: not there yet; run the recipe first")
    table = pl.scan_parquet(watched.run_rows)
    if reference != EVERY_SPLIT:
        table = table.filter(pl.col("split") == reference)
    columns = table.collect_schema().names()
    return table.collect_batches(maintain_order=True, lazy=True), tuple(name for name in slices if name in columns)


def _data_of(
    watched: Watched, rows: str | Sequence[str], *, extra: Sequence[str]
) -> tuple[DataConfig, tuple[str, ...], list[str]]:
    """How a file of rows is read, the slices that it has, and what it lacks in words."""
    data, config = watched.data, watched.config
    given = rows if isinstance(rows, str) else list(rows)
    wanted = {"id": as_names(config.id or data.id), "gold": as_names(config.gold or data.gold)}
    plain = data.model_copy(update={"rows": given, "decisions": [], "keep": [], "split_map": None})
    optional = [*wanted["id"], *wanted["gold"], *as_names(data.weight), *watched.slices]
    there = _columns_there(plain, optional)
    for key, names in (("id", as_names(config.id)), ("gold", as_names(config.gold))):
        if missing := [name for name in names if name not in there]:
            raise DataError(f"monitor.{key}: no column {missing} in {given}; correct the name or leave the key out")
    has_id = bool(wanted["id"]) and all(name in there for name in wanted["id"])
    has_gold = bool(wanted["gold"]) and wanted["gold"][0] in there
    slices = tuple(name for name in watched.slices if name in there or name in watched.task.inputs)
    notes = (
        [f"{', '.join(lost)}: not among today's columns, so not compared"]
        if (lost := [name for name in watched.slices if name not in slices])
        else []
    )
    keep = list(dict.fromkeys([*(name for name in slices if name not in watched.task.inputs), *extra]))
    weight = data.weight if data.weight in there else None
    used = {*watched.task.inputs, *watched.task.images, *keep, *as_names(data.group)}
    used |= {*wanted["id"]} if has_id else set()
    used |= {*wanted["gold"]} if has_gold else set()
    used |= {*as_names(weight)}
    update = {
        "id": wanted["id"] if has_id else None,
        "gold": wanted["gold"][0] if has_gold else None,
        "gold_map": data.gold_map if has_gold else None,
        "split": {"test": 1.0},
        "weight": weight,
        "keep": keep,
        "columns": {ours: theirs for ours, theirs in data.columns.items() if ours in used},
        "max_bad_fraction": 1.0,
    }
    return plain.model_copy(update=update), slices, notes


def _columns_there(data: DataConfig, names: Sequence[str]) -> set[str]:
    """Which of these columns, by the names used here, the first rows have. Only the first batch is read."""
    from distill.labeling.rows.files import read_source

    def has(asked: Sequence[str]) -> bool:
        try:
            next(read_source(data, {data.columns.get(name, name): "monitor" for name in asked}), None)
        except DataError:
            return False
        return True

    asked = list(dict.fromkeys(names))
    return set(asked) if has(asked) else {name for name in asked if has([name])}


def _stream(watched: Watched, data: DataConfig) -> Iterator[pl.DataFrame]:
    from distill.labeling.rows.problems import ProblemLog
    from distill.labeling.rows.stream import stream_rows

    watched.problems.parent.mkdir(parents=True, exist_ok=True)
    with ProblemLog(watched.problems) as log:
        yield from stream_rows(data, task=watched.task, log=log)
        log.flush()


def _timed(watched: Watched, data: DataConfig) -> Iterator[tuple[pl.DataFrame, pl.Series]]:
    """Batches with whether each row is of ``since`` or later; rows without a time are left out."""
    column, since = watched.config.time, watched.config.since
    assert column is not None and since is not None
    for part in _stream(watched, data):
        told = part.filter(pl.col(column).str.strip_chars().fill_null("") != "")
        yield told, told.select(_at(pl.col(column)) >= _moment(since)).to_series().fill_null(False)


def _moment(since: str) -> pl.Expr:
    return _at(pl.lit(since))


def _at(text: pl.Expr) -> pl.Expr:
    """ISO 8601 sorts as text once its T is a space; numbers are padded so that they do too."""
    plain = text.str.strip_chars().str.replace("T", " ", literal=True)
    digits = plain.str.contains(r"^\d+(\.\d+)?$")
    return pl.when(digits).then(plain.str.split(".").list.first().str.zfill(20)).otherwise(plain)


def _predicted(student: Student, rows: pl.DataFrame, stored: Path | None) -> pl.DataFrame:
    """Predictions of the reference: those that the run made of all these rows, or fresh ones."""
    if stored is not None and stored.is_file():
        found = pl.read_parquet(stored)
        if rows["row_id"].is_in(found["row_id"].implode()).all():
            return found
    return student.predict(rows)


def _student_sets(
    answered: Sequence[tuple[str, pl.DataFrame, pl.DataFrame]], truth_source: TruthSource
) -> StudentSets | None:
    from distill.eval.drift.comparison import StudentSets

    made: StudentSets | None = None
    for name, before, now in reversed(answered):
        made = StudentSets(name, before, now, other=made, truth_source=truth_source)
    return made


def _reference_name(config: MonitorConfig) -> str:
    if config.time is not None:
        return f"before {config.since}"
    if config.on_a_split:
        what = "all rows" if config.reference == EVERY_SPLIT else f"split {config.reference}"
        learned = ", which the student learned from" if config.reference in (*_LEARNED_FROM, EVERY_SPLIT) else ""
        return f"{what} of the run{learned}"
    return ", ".join(Path(name).name for name in as_names(config.reference))


def _current_name(config: MonitorConfig) -> str:
    if config.time is not None:
        return f"since {config.since}"
    return ", ".join(Path(name).name for name in as_names(config.rows))
