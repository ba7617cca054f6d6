"""Which labels two judges take for each other's: teachers with teachers, and a student with its teachers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import polars as pl
from pydantic import Field

from distill.eval.frozen import Frozen
from distill.eval.scored import collapse_votes
from distill.labeling.task import Task


class JudgeConfusion(Frozen):
    """The labels of two judges on the rows that both labeled."""

    first: str
    second: str
    rows: int
    same: int = Field(description="of them, rows to which both gave one label")
    table: list[list[int]] = Field(description="counts by label of the first (line) and of the second (column)")


def judge_confusions(
    votes: pl.DataFrame | None, predictions: Mapping[str, pl.DataFrame], *, task: Task
) -> list[JudgeConfusion]:
    """Every student with every teacher, then every two teachers; the pairs that differ most first within each.

    Args:
        votes: The votes table, of the teachers to compare; None without any.
        predictions: Labels by student.
        task: For the labels.
    """
    if votes is None:
        return []
    said = collapse_votes(votes).select("row_id", "teacher", "label")
    teachers = {
        name: said.filter(pl.col("teacher") == name).select("row_id", "label")
        for name in said["teacher"].unique(maintain_order=True).sort()
    }
    crossed = [
        _confusion((student, table.select("row_id", "label")), teacher, task)
        for student, table in predictions.items()
        for teacher in teachers.items()
    ]
    among = [_confusion(first, second, task) for first, second in combinations(teachers.items(), 2)]
    return [*_differing(crossed), *_differing(among)]


def _confusion(first: tuple[str, pl.DataFrame], second: tuple[str, pl.DataFrame], task: Task) -> JudgeConfusion:
    both = first[1].join(second[1], on="row_id", suffix="_second").group_by("label", "label_second").len()
    cells = {(one, other): rows for one, other, rows in both.iter_rows()}
    table = [[cells.get((one, other), 0) for other in task.labels] for one in task.labels]
    rows, same = sum(map(sum, table)), sum(line[place] for place, line in enumerate(table))
    return JudgeConfusion(first=first[0], second=second[0], rows=rows, same=same, table=table)


def _differing(found: list[JudgeConfusion]) -> list[JudgeConfusion]:
    return sorted((pair for pair in found if pair.rows), key=lambda pair: pair.same / pair.rows)
