"""People beside models: what a run, or a table of annotations, holds for :mod:`distill.eval.people.agreement`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from distill.annotations import Annotations
from distill.eval.people.agreement import PeopleAgreement, PeopleAndModels, people_agreement
from distill.eval.people.annotator_labels import read_annotations_of
from distill.eval.scored import collapse_votes
from distill.labeling.errors import UsageError
from distill.labeling.task import Task

if TYPE_CHECKING:
    from distill.eval.config import EvalConfig
    from distill.runs import Run

MERGED = "merged labels"
EVERYONE = "all"
"""What ``--people`` says of a table that holds people only."""
_VOTE = ("row_id", "teacher", "label", "outcome")


@dataclass(frozen=True)
class JudgeTables:
    """What a run has of judges that are models.

    Attributes:
        votes: The votes table; None without teachers.
        labels: The labels table; None without.
        predictions: By student.
        leave_out: Teachers that are no candidates, such as labeling functions, which speak of few rows each.
    """

    votes: pl.DataFrame | None
    labels: pl.DataFrame | None
    predictions: dict[str, pl.DataFrame]
    leave_out: Sequence[str] = ()


def people_beside_run(
    annotations: pl.DataFrame, rows: pl.DataFrame, judges: JudgeTables, *, task: Task
) -> PeopleAndModels:
    """Annotators of a run beside its teachers, students and merged labels.

    Args:
        annotations: Every annotator's own labels.
        rows: ``row_id`` and ``group``.
        judges: The models.
        task: What was asked.
    """
    people = tuple(sorted(annotations["annotator"].unique()))
    tables = [_as_votes(annotations.rename({"annotator": "teacher"}))]
    models: list[str] = []
    if judges.votes is not None:
        votes = judges.votes.filter(~pl.col("teacher").is_in(list(judges.leave_out)))
        models += votes["teacher"].unique(maintain_order=True).to_list()
        tables.append(_as_votes(collapse_votes(votes)))
    for name, predicted in judges.predictions.items():
        models.append(name)
        tables.append(_as_votes(predicted.with_columns(teacher=pl.lit(name))))
    if judges.labels is not None and judges.votes is not None and judges.votes["teacher"].n_unique() > 1:
        models.append(MERGED)
        tables.append(_as_votes(judges.labels.with_columns(teacher=pl.lit(MERGED))))
    clash = {name: f"{name} (annotator)" for name in people if name in models}
    tables[0] = tables[0].with_columns(pl.col("teacher").replace(clash))
    return PeopleAndModels(
        votes=pl.concat(tables),
        rows=rows.select("row_id", "group"),
        people=tuple(clash.get(name, name) for name in people),
        candidates=tuple(models),
        task=task,
    )


def agreement_of_run(run: Run, files: Sequence[Path] = (), *, epsilon: float) -> PeopleAgreement:
    """People beside the models of a run.

    Args:
        run: The run.
        files: Annotators' files; what the run has read already where none are given.
        epsilon: What an annotator costs more.

    Raises:
        UsageError: There are no labels of annotators.
        DataError: A file cannot be read.
    """
    from distill.teachers.config import functions_among

    recipe = run.recipe
    assert recipe.task is not None
    task = Task.from_config(recipe.task)
    if files:
        annotations = read_annotations_of(files, task=task)
    elif run.folder.annotations.exists():
        annotations = pl.read_parquet(run.folder.annotations)
    else:
        raise UsageError(
            f"{run.path}: has no labels of annotators; give --annotators FILE, or name the files in the recipe under "
            "data.annotations and run it"
        )
    votes = run.votes if run.folder.votes.exists() else None
    judges = JudgeTables(
        votes=votes,
        labels=run.labels if run.folder.labels.exists() else None,
        predictions={name: run.predictions(name) for name in run.students if run.folder.predictions(name).exists()},
        leave_out=[] if votes is None else functions_among(votes["teacher"].unique(), recipe.teachers),
    )
    judged = people_beside_run(annotations, run.rows, judges, task=task)
    return measured(judged, annotations, config=recipe.eval, epsilon=epsilon, seed=recipe.seed)


def agreement_of_table(
    table: Annotations, *, people: str | None, files: Sequence[Path] = (), epsilon: float
) -> PeopleAgreement:
    """People beside models in a table of annotations.

    Args:
        table: From :func:`distill.annotations.read_annotations`.
        people: Names of those that are people, comma between, or ``all``; None to go by the table's ``kind`` or
            ``family`` column and by ``files``.
        files: Further labels, all by people.
        epsilon: What an annotator costs more.

    Raises:
        UsageError: Nobody is known to be a person, or a name is not in the table.
    """
    judges = table.votes["teacher"].unique(maintain_order=True).to_list()
    further = read_annotations_of(files, task=table.task)
    named = list(judges if people == EVERYONE else _names(people, judges) if people else table.people)
    named += [name for name in sorted(further["annotator"].unique()) if name not in named]
    if not named:
        raise UsageError(
            f"{table.name}: who is a person? Give --people a,b,c (or --people {EVERYONE}), or a column `kind` that "
            f"says human of theirs; judges are {', '.join(judges[:8])}{' …' if len(judges) > 8 else ''}"
        )
    votes = pl.concat([_as_votes(table.votes), _as_votes(further.rename({"annotator": "teacher"}))])
    judged = PeopleAndModels(
        votes=votes,
        rows=table.rows.select("row_id", "group"),
        people=tuple(named),
        candidates=tuple(name for name in judges if name not in named),
        task=table.task,
    )
    return measured(judged, further, config=None, epsilon=epsilon, seed=0)


def measured(
    judged: PeopleAndModels, annotations: pl.DataFrame, *, config: EvalConfig | None, epsilon: float, seed: int
) -> PeopleAgreement:
    """The comparison, with a word on rows that were drawn by a model's doubt."""
    found = people_agreement(judged, config=config, epsilon=epsilon, seed=seed)
    chances = annotations["chance"].drop_nulls()
    if chances.n_unique() < 2:
        return found
    note = "rows that a model doubts were drawn more often, so that everyone agrees less here than on all rows"
    return found.model_copy(update={"notes": [*found.notes, note]})


def _names(people: str, judges: Sequence[str]) -> list[str]:
    named = [name.strip() for name in people.split(",") if name.strip()]
    if strangers := [name for name in named if name not in judges]:
        raise UsageError(f"--people: {', '.join(strangers)} judged nothing; judges are {', '.join(judges[:20])}")
    return named


def _as_votes(table: pl.DataFrame) -> pl.DataFrame:
    labeled = table.filter(pl.col("label").is_not_null()).with_columns(outcome=pl.lit("labeled"))
    return labeled.select(pl.col(name).cast(pl.String) for name in _VOTE)
