"""Ladders of several runs beside each other, with paired differences where they were tested on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.evaluation import paired_difference
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate
from distill.eval.ladder import Ladder, LadderRow, merge_ladders
from distill.eval.wording import interval, metric_title, plural
from distill.labeling.task import Task

if TYPE_CHECKING:
    from rich.table import Table

_NOTHING = "–"
_COLUMNS = ("run", "student", "over", "why these", "difference", "shared test rows", "why none is given")

_NUMBERS = ("difference", "shared test rows")


@dataclass(frozen=True)
class MeasuredRun:
    """What a comparison needs to know of one run.

    Attributes:
        ladder: Its ladder.
        rows: Its rows table, with gold by people or the data's author; None where only its ladder was kept.
        predictions: On the test rows, by student, as far as they were kept.
        task: What was asked.
        config: As it was measured.
    """

    ladder: Ladder
    rows: pl.DataFrame | None
    predictions: Mapping[str, pl.DataFrame]
    task: Task
    config: EvalConfig


class RunDifference(Frozen):
    """One student of a run less one of the first run, on the test rows that both runs have with the same gold."""

    run: str
    student: str | None = Field(description="None where the run has no measured student")
    over_run: str
    over_student: str | None
    chosen_as: Literal["best", "same name"] = Field(description="the best of each run, or two of one name")
    metric: str | None = None
    difference: Estimate | None = Field(None, description="of the metric, paired; None where rows or gold do not agree")
    shared: int = Field(0, description="test rows with the same id and the same gold in both")
    gold_differs: int = Field(0, description="test rows of the same id whose gold differs: left out")
    rows: int = Field(0, description="test rows with gold of the run")
    over_rows: int = Field(0, description="the same of the first run")
    reason: str | None = Field(None, description="why there is no difference")


class LadderComparison(Ladder):
    """The ladders of several runs, and what tells their students apart."""

    differences: list[RunDifference] = Field(default_factory=list)

    def to_markdown(self) -> str:
        """The ladder, then the differences, as Markdown tables."""
        if not self.differences:
            return super().to_markdown()
        columns, lines = difference_cells(self)
        cells = [columns, ["---"] * len(columns), *lines]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)
        return f"{super().to_markdown()}\n\n{table}"

    def differences_to_rich(self) -> Table:
        """The differences as a table for the terminal."""
        from rich.markup import escape
        from rich.table import Table

        columns, lines = difference_cells(self)
        caption = "Paired over the test rows that both runs have with the same gold, resampled by group."
        table = Table(title="Differences to the first run", caption=caption, caption_justify="left", pad_edge=False)
        for column in columns:
            table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
        for line in lines:
            table.add_row(*(escape(cell) for cell in line))
        return table


def compare_runs(runs: Mapping[str, MeasuredRun], *, seed: int = 0) -> LadderComparison:
    """Stands ladders below each other, and compares each run's best student, and those of one name, with the first's.

    Args:
        runs: By name, in order; at least one.
        seed: Of the resamples behind the differences.
    """
    merged = merge_ladders({name: run.ladder for name, run in runs.items()})
    (first_name, first), *others = runs.items()
    differences = []
    for name, run in others:
        for mine, theirs, chosen_as in _pairs(run.ladder, first.ladder):
            found = RunDifference(
                run=name,
                student=mine and mine.name,
                over_run=first_name,
                over_student=theirs and theirs.name,
                chosen_as=chosen_as,
            )
            if mine is not None and theirs is not None:
                found = found.model_copy(update=_difference(run, mine, first, theirs, seed=seed))
            else:
                empty = " and ".join(one for one, row in ((name, mine), (first_name, theirs)) if row is None)
                found = found.model_copy(update={"reason": f"no measured student in {empty}"})
            differences.append(found)
    return LadderComparison(rows=merged.rows, baseline=merged.baseline, differences=differences)


def difference_cells(compared: LadderComparison) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells, as text; the column of reasons only where there are any."""
    lines = []
    positive = next((row.positive for row in compared.rows), None)
    for one in compared.differences:
        said = _NOTHING
        if one.difference is not None and one.metric is not None:
            title = metric_title(one.metric, positive=positive)
            said = f"{interval(one.difference, one.metric, signed=True)} {title}"
        shared = f"{one.shared:,} of {one.rows:,} and {one.over_rows:,}" if one.rows or one.over_rows else _NOTHING
        shared += f"; gold differs on {one.gold_differs:,}" if one.gold_differs else ""
        lines.append(
            [
                one.run,
                one.student or _NOTHING,
                f"{one.over_run}: {one.over_student or _NOTHING}",
                one.chosen_as,
                said,
                shared,
                one.reason or _NOTHING,
            ]
        )
    shown = [place for place in range(len(_COLUMNS)) if place < 6 or any(line[place] != _NOTHING for line in lines)]
    return [_COLUMNS[place] for place in shown], [[line[place] for place in shown] for line in lines]


def _pairs(
    ladder: Ladder, first: Ladder
) -> list[tuple[LadderRow | None, LadderRow | None, Literal["best", "same name"]]]:
    """The best of each, then students of one name, the pair of the best ones not twice."""
    pairs: list[tuple[LadderRow | None, LadderRow | None, Literal["best", "same name"]]] = []
    pairs.append((ladder.best, first.best, "best"))
    named = {row.name: row for row in first.rows if row.is_student}
    for row in ladder.rows:
        other = named.get(row.name)
        if row.is_student and other is not None and (row, other) != (ladder.best, first.best):
            pairs.append((row, other, "same name"))
    return pairs


def _difference(
    run: MeasuredRun, mine: LadderRow, first: MeasuredRun, theirs: LadderRow, *, seed: int
) -> dict[str, object]:
    """The fields of a difference that depend on rows."""
    metric = {"metric": mine.metric}
    if reason := _not_comparable(run, mine, first, theirs):
        return {**metric, "reason": reason}
    if run.rows is None or first.rows is None:
        return {**metric, "reason": "the rows of one run are not kept"}
    ours, other = _tested(run.rows), _tested(first.rows)
    both = other.join(ours.select("row_id", _gold="gold"), on="row_id", how="inner")
    same = both.filter(pl.col("gold") == pl.col("_gold")).drop("_gold")
    sizes = {
        **metric,
        "shared": len(same),
        "gold_differs": len(both) - len(same),
        "rows": len(ours),
        "over_rows": len(other),
    }
    if both.is_empty():
        return {**sizes, "reason": f"the test rows differ: 0 of {plural(len(ours), 'row')} shared"}
    if same.is_empty():
        return {**sizes, "reason": f"the gold differs on all {plural(len(both), 'shared row')}"}
    said = run.predictions[mine.name], first.predictions[theirs.name]
    answered = [table.filter(pl.col("label").is_not_null()).select("row_id") for table in said]
    if same.join(answered[0], on="row_id", how="semi").join(answered[1], on="row_id", how="semi").is_empty():
        return {**sizes, "reason": "no shared row is answered by both"}
    config = first.config.model_copy(update={"metric": mine.metric})
    found = paired_difference(*said, same, task=first.task, config=config, seed=seed)
    return {**sizes, "difference": found, "reason": found.note if found.value is None else None}


def _not_comparable(run: MeasuredRun, mine: LadderRow, first: MeasuredRun, theirs: LadderRow) -> str | None:
    """Why two figures are not of one kind; None where they are."""
    if "teacher" in (mine.truth_source, theirs.truth_source):
        return "measured against merged labels of teachers, which are each run's own"
    if run.task.labels != first.task.labels or run.task.positive != first.task.positive:
        return "the labels differ, or which of them is a match"
    if mine.metric != theirs.metric:
        return f"one is measured by {metric_title(mine.metric)}, the other by {metric_title(theirs.metric)}"
    if mine.name not in run.predictions or theirs.name not in first.predictions:
        return "the predictions of one are not kept"
    return None


def _tested(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter((pl.col("split") == "test") & pl.col("gold").is_not_null())
