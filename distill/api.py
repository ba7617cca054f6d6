"""The library: the stages of a run as calls, polars in and polars out. Hugging Face datasets are accepted as rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl
from pydantic import TypeAdapter, ValidationError

from distill.eval.evaluation import Evaluation
from distill.eval.evaluation import evaluate as evaluate_predictions
from distill.eval.guideline.review import Review
from distill.eval.guideline.review import review as review_votes
from distill.eval.labeling_functions import analysis_table, analyze_functions
from distill.eval.scored import TruthSource
from distill.labeling.errors import DataError, UsageError
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.labeling_function import LabelingFunction
from distill.labeling.merging.aggregate import MethodLike
from distill.labeling.merging.aggregate import aggregate as merge_votes
from distill.labeling.merging.merge_answers import merge_answers, task_of_votes
from distill.labeling.rows.data_config import RESERVED_COLUMNS, DataConfig
from distill.labeling.task import Task, TaskConfig
from distill.labeling.teacher import Teacher

if TYPE_CHECKING:
    import datasets

    from distill.labeling.asking.label_rows import LabelingFacts
    from distill.students.config import StudentConfig
    from distill.students.student import Student
    from distill.teachers.config import TeacherConfig

    Rows: TypeAlias = pl.DataFrame | pl.LazyFrame | datasets.Dataset
    TaskLike: TypeAlias = Task | TaskConfig | Mapping[str, Any]
    TeacherLike: TypeAlias = Teacher | TeacherConfig | Mapping[str, Any]

__all__ = [
    "aggregate",
    "analyze_labeling_functions",
    "evaluate",
    "label",
    "load_student",
    "read_rows",
    "review",
    "train",
]


def read_rows(
    rows: Rows | Path | str, task: TaskLike, *, data: Mapping[str, Any] | None = None, seed: int = 7
) -> pl.DataFrame:
    """Brings rows into the table that the other calls take.

    Args:
        rows: A polars table, a Hugging Face dataset, or what ``data.rows`` of a recipe takes.
        task: Names the inputs and labels.
        data: Further keys of a recipe's ``data`` section: ``id``, ``group``, ``gold``, ``split``, ``columns``, ….
        seed: Of the split by group, where ``data`` gives shares or nothing.

    Returns:
        ``row_id``, ``group``, ``split``, ``gold``, ``weight``, the inputs as text, and the columns kept.

    Raises:
        DataError: The rows as a whole cannot be used. Single rows that cannot be are left out.
        UsageError: ``data`` or ``task`` is wrong.
    """
    from distill.labeling.rows.load import frame_rows, load_rows

    source = str(rows) if isinstance(rows, Path | str) else "(in memory)"
    config = _checked(DataConfig, {**(data or {}), "rows": source}, what="data")
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "rows.parquet"
        if isinstance(rows, Path | str):
            load_rows(config, task=_task(task), out=table, seed=seed)
        else:
            frame_rows(rows, config, task=_task(task), out=table, seed=seed)
        return pl.read_parquet(table)


def label(
    rows: Rows,
    task: TaskLike,
    teachers: Mapping[str, TeacherLike] | Sequence[Teacher | LabelingFunction],
    *,
    config: LabelingConfig | Mapping[str, Any] | None = None,
    ledger: Path | str | None = None,
    seed: int = 7,
    on_facts: Callable[[LabelingFacts], None] | None = None,
) -> pl.DataFrame:
    """Asks teachers about rows. Every answer is in the ledger before it is returned; what it holds is not asked again.

    Args:
        rows: As :func:`read_rows` returns them; anything else that it takes is read by it first.
        task: What is asked.
        teachers: By name, as in a recipe's ``teachers`` section; or a list of teachers that are built already, and
            of labeling functions.
        config: As in a recipe's ``labeling`` section. Rows of every split are asked.
        ledger: Its file; ``$DISTILL_LEDGER`` or ``.distill/ledger.sqlite`` where none is given.
        seed: Of the draws that ``config`` asks for: canaries, places of gold rows, the audit of shared answers.
        on_facts: Takes how it went, once: costs, who obeyed the canaries, quality on gold rows, and the like.

    Returns:
        The votes: a line for every row × teacher × sample, whatever its outcome. A spent budget leaves the rest
        ``unsent``; the same call goes on from there.

    Raises:
        UsageError: An argument is wrong.
        LedgerError: An answer could not be made durable.
    """
    from distill.labeling.asking.asked_rows import AskedRows
    from distill.labeling.asking.label_rows import label_rows
    from distill.labeling.ledger.ledger import Ledger
    from distill.labeling.vote import part_place, stored_columns, votes_frame
    from distill.stages import ledger_path

    asked, whole = _task(task), _table(rows, task)
    named = teachers.items() if isinstance(teachers, Mapping) else (("", teacher) for teacher in teachers)
    built = [teacher for name, given in named for teacher in _teachers(name, given, asked)]
    settings = _checked(LabelingConfig, config or {}, what="config")
    parts = [votes_frame([])]
    with Ledger(ledger_path(Path(ledger) if ledger else None)) as opened:
        rows_asked = AskedRows(whole.lazy(), task=asked, config=settings, seed=seed)
        facts = label_rows(rows_asked, teachers=built, ledger=opened, on_votes=parts.append)
    if on_facts is not None:
        on_facts(facts)
    places = {name: place for place, name in enumerate(teacher.name for teacher in built)}
    order = whole.select("row_id").with_row_index("_row")
    votes = pl.concat(parts).join(order, on="row_id", how="left")
    place = pl.col("teacher").replace_strict(places, default=None, return_dtype=pl.Int32)
    kept = stored_columns(asked)
    return votes.sort("_row", place, "sample", part_place(asked)).select(kept)


def aggregate(
    votes: pl.DataFrame,
    *,
    labels: Sequence[str] | None = None,
    method: MethodLike = "family_vote",
    ordered: bool = False,
    gold: pl.DataFrame | None = None,
    predictions: pl.DataFrame | None = None,
    task: TaskLike | None = None,
) -> pl.DataFrame:
    """Merges votes into labels.

    Votes whose answers are in ``labels``, ``text``, ``texts`` or ``spans`` are merged by their kind, each ``part``
    apart: see :mod:`distill.labeling.merging.merge_answers`.

    Args:
        votes: ``row_id``, ``teacher``, ``label``; where known, ``family``, ``probs``, ``outcome``, ``trace``,
            ``trace_problems``, ``clauses``.
        labels: The label set, in the order of ``probs``. Where votes have no ``probs``, the labels found, in order.
        method: ``family_vote``, ``weighted_family_vote``, ``majority``, ``dawid_skene``, ``mace``, ``glad``,
            ``label_model`` or ``auto``; or settings as in a recipe's ``aggregate`` section.
        ordered: Whether the labels are grades.
        gold: ``row_id``, ``gold`` and perhaps ``group`` of a few rows that people labeled, to calibrate by.
        predictions: ``row_id`` and ``probs`` of a student that did not train on the rows that it predicts (out of
            fold): it joins the vote, weighed after CROWDLAB.
        task: What was asked, where an answer is no single label: it knows the tree of categories and how long lists
            are. Without it votes are merged by what they hold.

    Returns:
        ``row_id``, ``label``, ``probs``, ``confidence``, ``n_eff``, ``votes``, ``tie``, ``trace``, ``trace_teacher``,
        ``clauses``; a line for every row. For other kinds, the columns of
        :data:`~distill.labeling.merging.merge_answers.ANSWER_LABEL_SCHEMA` that they have; a line for every row and
        part.

    Raises:
        DataError: A column is missing, the method is unknown, a label is outside the set, or ``labels`` is
            needed and not given.
    """
    asked = _task(task) if task is not None else task_of_votes(votes, labels=labels)
    if asked is not None and (not asked.closed or asked.tree is not None):
        return merge_answers(votes, task=asked, method=method).labels
    labels = labels or (asked.labels if asked is not None else None)
    if labels is None:
        if "probs" in votes.columns and votes["probs"].is_not_null().any():
            raise DataError(
                "aggregate: the votes have `probs`, whose order nothing tells; give labels=[…] in that order"
            )
        if "label" not in votes.columns:
            raise DataError(
                f"aggregate: votes: missing column 'label', got {votes.columns}; rename the column of labels, or give "
                "the task, whose answers may stand in another one"
            )
        labels = sorted(votes["label"].drop_nulls().unique().to_list())
    return merge_votes(votes, labels=labels, method=method, ordered=ordered, gold=gold, predictions=predictions)


def train(
    rows: Rows,
    student: StudentConfig | Mapping[str, Any],
    *,
    task: TaskLike,
    out: Path | str,
    labels: pl.DataFrame | None = None,
    votes: pl.DataFrame | None = None,
    seed: int = 7,
) -> Student:
    """Trains a student and returns it, ready to predict.

    Args:
        rows: As :func:`read_rows` returns them; anything else that it takes is read by it first.
        student: As in a recipe's ``students`` section; ``train_on`` says which of the tables below teaches.
        task: What is asked.
        out: Folder to save it in.
        labels: Merged labels, for ``train_on: labels``.
        votes: Votes, for ``train_on: <teacher>``.
        seed: Same seed, same student.

    Raises:
        StudentError: Nothing to train on, or training failed.
        UsageError: An argument is wrong.
    """
    from distill.students.config import StudentConfig
    from distill.students.fit import fit_student
    from distill.students.people import targets_for

    config: StudentConfig = _checked(StudentConfig, student, what="student")
    asked, whole = _task(task), _table(rows, task)
    training = targets_for(config, whole, labels=labels, votes=votes, task=asked, seed=seed)
    audit = whole.filter((pl.col("split") == "audit") & pl.col("gold").is_not_null())
    fit_student(config, training, task=asked, out=Path(out), seed=seed, calibration=audit if len(audit) else None)
    return load_student(out)


def load_student(path: Path | str) -> Student:
    """Loads a student's folder; ``.predict(rows)`` gives a label, a distribution and a confidence for each row.

    Raises:
        StudentError: There is no student in the folder.
    """
    from distill.students.student import load_student as load

    return load(Path(path))


def evaluate(
    predictions: pl.DataFrame,
    rows: Rows,
    *,
    task: TaskLike,
    truth_source: TruthSource = "human",
    split: str | None = "test",
) -> Evaluation:
    """Measures predictions against gold, with intervals by bootstrap over groups.

    Args:
        predictions: ``row_id``, ``label`` and, for AUC and calibration, ``probs``.
        rows: As :func:`read_rows` returns them; anything else that it takes is read by it first.
        task: What was asked.
        truth_source: Who gave the gold labels.
        split: Rows of this split; None for all that have gold.

    Raises:
        DataError: There is no gold to measure against.
    """
    return evaluate_predictions(
        predictions, _table(rows, task), task=_task(task), truth_source=truth_source, split=split
    )


def analyze_labeling_functions(
    votes: pl.DataFrame, rows: pl.DataFrame | None = None, *, functions: Sequence[str] | None = None, seed: int = 7
) -> pl.DataFrame:
    """Says what labeling functions cover, how far they overlap and conflict, and how often they are right.

    Args:
        votes: The votes table.
        rows: The rows table, for ``gold`` and ``group``; without it nothing is said of accuracy.
        functions: Which teachers; all of ``votes`` by default.
        seed: Of the resamples behind the intervals.

    Returns:
        A line a function, in the order of the votes: ``function``, ``family``, ``rows``, ``polarity`` (the labels that
        it gives), ``coverage``, ``overlap``, ``conflict`` (shares of the rows, as Snorkel's ``LFAnalysis`` has them),
        ``failed``, ``gold`` (rows with gold that it labeled), ``accuracy``, ``low``, ``high`` (95%, by bootstrap over
        groups).

    Raises:
        DataError: A column is missing, or a function has no votes.
    """
    return analysis_table(analyze_functions(votes, rows, functions=functions, seed=seed))


def review(votes: pl.DataFrame, rows: Rows, task: TaskLike) -> Review:
    """Says where judges disagree, and which clause of the guideline is to blame.

    Raises:
        DataError: No row was labeled by two judges.
    """
    return review_votes(votes, _table(rows, task), task=_task(task))


def _task(task: TaskLike) -> Task:
    if isinstance(task, Task):
        return task
    return Task.from_config(_checked(TaskConfig, task, what="task"))


def _teachers(name: str, given: TeacherLike | LabelingFunction, task: Task) -> list[Teacher]:
    from distill.recipe_kinds import for_task
    from distill.secrets import with_secrets
    from distill.stages import student_of_folder
    from distill.teachers.config import TeacherConfig
    from distill.teachers.functions import FunctionTeacher
    from distill.teachers.registry import build_teachers

    if isinstance(given, LabelingFunction):
        return [FunctionTeacher.of(given)]
    if isinstance(given, Teacher):
        return [given]
    config: TeacherConfig = _checked(TeacherConfig, given, what=f"teachers.{name}")
    checked = for_task(with_secrets(config, where=f"teachers.{name}"), task)
    return build_teachers({name: checked}, load_student=student_of_folder)


def _table(rows: Rows, task: TaskLike) -> pl.DataFrame:
    """Rows as they are where they have the shape already; read first where they have not."""
    if isinstance(rows, pl.LazyFrame):
        rows = rows.collect()
    if isinstance(rows, pl.DataFrame) and set(RESERVED_COLUMNS) <= set(rows.columns):
        missing = [name for name in _task(task).inputs if name not in rows.columns]
        if missing:
            raise DataError(
                f"rows: missing input(s) {missing}, got {rows.columns}; rename columns, or correct task.inputs"
            )
        return rows
    return read_rows(rows, task)


def _checked(model: Any, given: Any, *, what: str) -> Any:
    """Plain values as a model; a model as it is."""
    if not isinstance(given, Mapping):
        return given
    try:
        return TypeAdapter(model).validate_python(dict(given))
    except ValidationError as error:
        lines = [
            f"{what}.{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False)
        ]
        raise UsageError("\n".join(lines)) from None
