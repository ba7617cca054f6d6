"""Rows of a run for people to label next, as a file for annotators."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl

from distill.eval.drawn_rows import drawn_sample
from distill.eval.people.annotation_files import AnnotationFormat, write_annotation_file
from distill.eval.people.label_next import HalfWidths, by_group, expected_half_widths, rows_to_label
from distill.labeling.errors import DataError, UsageError
from distill.labeling.rows.data_config import SPLITS
from distill.labeling.task import Task
from distill.people_labels import CHANCE
from distill.students.config import LABELS

if TYPE_CHECKING:
    from distill.eval.metrics import Floats
    from distill.runs import Run

Purpose = Literal["accuracy", "prevalence"]
_ENDING = {"csv": ".csv", "label_studio": ".json", "argilla": ".json"}
_UNKNOWN = 0.5


@dataclass(frozen=True)
class LabelNext:
    """Which rows are asked for, and how they are written.

    Attributes:
        rows: How many.
        student: Whose predictions are the guess; ``labels`` for the merged labels. The best on the ladder where None.
        purpose: What is to be estimated: how often the student is right, or how many rows are positive.
        split: Of which split.
        form: Which tool reads the file.
        explore: Share of the draw that ignores the guess.
        out: The file; in the current folder, named after the run, where None.
        force: Whether a file that is there may be written over.
    """

    rows: int = 200
    student: str | None = None
    purpose: Purpose = "accuracy"
    split: str = "test"
    form: AnnotationFormat = "csv"
    explore: float = 0.5
    out: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class WrittenRows:
    """What was written for annotators.

    Attributes:
        files: The rows, and for Label Studio the labeling configuration.
        rows: How many.
        groups: Of how many groups (queries).
        unlabeled: Rows of the split without a label, from which they were drawn.
        labeled: Rows of the split that have one.
        student: Whose predictions were the guess.
        measure: What is to be estimated, in words.
        level: Coverage of the interval.
        widths: Half the interval's width now and then.
        draw: Number of the draw, which comes back with the labels.
    """

    files: list[Path]
    rows: int
    groups: int
    unlabeled: int
    labeled: int
    student: str
    measure: str
    level: float
    widths: HalfWidths
    draw: int = field(default=1)

    def sentence(self) -> str:
        """What was drawn, and what labeling it is expected to bring."""
        said = f"{self.rows:,} rows of {self.groups:,} groups, drawn from {self.unlabeled:,} without a label. "
        then, now = f"±{100 * self.widths.then:.1f} points", self.widths.now
        interval = f"{100 * self.level:g}% interval"
        if now is None:
            said += f"Once they are labeled, expect about {then} ({interval}) on {self.measure}; "
            said += "there are too few labels yet to say how much that is worth"
        else:
            said += (
                f"The {interval} of {self.measure} is ±{100 * now:.1f} points now, by {self.labeled:,} labels; expect "
            )
            said += f"about {then} once these are labeled"
        if not self.widths.measured:
            said += (
                f". This takes {self.student} at its word on how sure it is, and the rows of a group for independent: "
                "the true interval will be wider"
            )
        return said + "."

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "files": [str(path) for path in self.files], "widths": self.widths._asdict()}


class _Guess(NamedTuple):
    """Of every row of the split: the guess, and what is true of the labeled ones (NaN without a label)."""

    guess: Floats
    truth: Floats
    measure: str


def write_label_next(run: Run, asked: LabelNext) -> WrittenRows:
    """Draws rows for people to label and writes the file for annotators.

    Args:
        run: A run with a trained student, or with merged labels.
        asked: Which rows.

    Raises:
        UsageError: The file is there already, or what is asked for is not in the run.
        DataError: No row without a label is left in the split.
    """
    recipe = run.recipe
    assert recipe.task is not None
    task = Task.from_config(recipe.task)
    out = asked.out or Path(f"{run.path.resolve().name}_to_label{_ENDING[asked.form]}")
    _check(asked, out, task)
    split = run.rows.filter(pl.col("split") == asked.split)
    free = split["gold"].is_null().to_numpy()
    if not free.any():
        raise DataError(
            f"label-next: each of the {len(split):,} rows of split {asked.split} has a label; give another --split"
        )
    if asked.rows > free.sum():
        raise UsageError(
            f"--rows: got {asked.rows}, split {asked.split} has {free.sum():,} rows without a label; give --rows "
            f"{free.sum()} or fewer"
        )
    student = asked.student or _best(run)
    found = _guess(run, split, student, asked.purpose, task)
    draw = _next_draw(run)
    drawn = rows_to_label(
        split.filter(free).drop(CHANCE, strict=False),
        found.guess[free],
        count=asked.rows,
        explore=asked.explore,
        seed=recipe.seed + draw,
    )
    files = write_annotation_file(
        out, by_group(drawn.with_columns(draw=pl.lit(draw)), seed=recipe.seed), task=task, form=asked.form
    )
    return WrittenRows(
        files=files,
        rows=len(drawn),
        groups=drawn["group"].n_unique(),
        unlabeled=int(free.sum()),
        labeled=int((~free).sum()),
        student="the merged label" if student == LABELS else student,
        measure=found.measure,
        level=recipe.eval.level,
        widths=_widths(split, drawn, found, level=recipe.eval.level, seed=recipe.seed),
        draw=draw,
    )


def _check(asked: LabelNext, out: Path, task: Task) -> None:
    if not task.closed:
        raise UsageError(
            f"label-next: a task of type {task.type} has answers that are no single label, and rows are chosen by the "
            "doubts about one; draw rows at random"
        )
    if asked.split not in SPLITS:
        raise UsageError(f"--split: got {asked.split!r}; one of {', '.join(SPLITS)}")
    if out.suffix.lower() != _ENDING[asked.form]:
        raise UsageError(f"--out: {out} is to be {asked.form}; give a name that ends in {_ENDING[asked.form]}")
    if out.exists() and not asked.force:
        raise UsageError(
            f"{out}: is there already, perhaps with labels in it; give another --out, or --force to write over it"
        )
    if asked.purpose == "prevalence" and task.positive is None:
        raise UsageError("--for prevalence: the task names no positive label; give task.positive, or use accuracy")


def _best(run: Run) -> str:
    if run.has_ladder and (best := run.ladder.best) is not None:
        return best.name
    if run.students:
        return run.students[-1]
    raise UsageError(
        f"{run.path}: has no trained student whose doubts could choose the rows; train one (distill train), or give "
        f"--student {LABELS} for the merged labels"
    )


def _guess(run: Run, split: pl.DataFrame, student: str, purpose: Purpose, task: Task) -> _Guess:
    said = split.select("row_id").join(
        _predicted(run, split, student).select("row_id", "label", "probs"),
        on="row_id",
        how="left",
        maintain_order="left",
    )
    probs = np.array([row if row is not None else [np.nan] * len(task.labels) for row in said["probs"].to_list()])
    name = "the merged label" if student == LABELS else student
    positive = task.positive
    known = split["gold"].is_not_null().to_numpy()
    at = task.positive_index
    if at is None:
        guess, right = probs.max(axis=1), (said["label"] == split["gold"])
        measure = f"how often {name} gives the right label"
    elif purpose == "prevalence":
        guess, right = probs[:, at], split["gold"] == positive
        measure = f"how many rows are {positive}"
    else:
        guess = np.where((said["label"] == positive).fill_null(False), probs[:, at], 1.0 - probs[:, at])
        right = (said["label"] == positive) == (split["gold"] == positive)
        measure = f"how often {name} is right ({positive} or not)"
    truth = np.where(known, right.fill_null(False).to_numpy().astype(float), np.nan)
    return _Guess(np.where(np.isfinite(guess), np.clip(guess, 0.0, 1.0), _UNKNOWN), truth, measure)


def _predicted(run: Run, split: pl.DataFrame, student: str) -> pl.DataFrame:
    if student == LABELS:
        return run.labels
    if student not in run.students:
        raise UsageError(
            f"--student: {student!r} is not trained in {run.path}; there are {', '.join(run.students) or 'none'}, and "
            f"{LABELS} for the merged labels"
        )
    path = run.folder.predictions(student)
    if split["split"][0] == "test" and path.exists():
        return run.predictions(student)
    return run.student(student).predict(split)


def _next_draw(run: Run) -> int:
    if not run.folder.annotations.exists():
        return 1
    earlier = pl.read_parquet(run.folder.annotations)["draw"].max()
    return 1 + (int(earlier) if isinstance(earlier, int) else 0)


def _widths(split: pl.DataFrame, drawn: pl.DataFrame, found: _Guess, *, level: float, seed: int) -> HalfWidths:
    def chances(table: pl.DataFrame) -> Floats:
        joined = split.select("row_id").join(
            table.select("row_id", CHANCE), on="row_id", how="left", maintain_order="left"
        )
        values: Floats = joined[CHANCE].cast(pl.Float64).to_numpy().astype(float)
        return values

    had = chances(split) if CHANCE in split.columns else np.full(len(split), np.nan)
    now = drawn_sample(found.truth, found.guess, split["group"].to_numpy(), had)
    return expected_half_widths(now, chances(drawn), level=level, seed=seed)
