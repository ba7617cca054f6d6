"""The ladder: runs or students in the order they were reached, each with its quality and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.evaluation import Evaluation, paired_difference, primary_metric
from distill.eval.few_labels import FewLabels
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate
from distill.eval.label_free import LabelFreeEstimate
from distill.eval.ladder_words import ladder_cells
from distill.eval.prediction_powered import PredictionPowered
from distill.eval.scored import TruthSource
from distill.eval.wording import TRUTH_WORDS
from distill.labeling.errors import DataError
from distill.labeling.task import Task

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Kind", "Ladder", "LadderRow", "Rung", "build_ladder", "ladder_cells", "merge_ladders", "with_few_labels"]

PEOPLE = "human"
"""Of ``trained_on``: labels by people alone, whose cost nobody noted."""
Kind = Literal["dcn", "encoder", "causal", "teacher", "labels", "function"]
"""What stands on a rung: a student by its type, a teacher's own votes, the merged labels, or a labeling function."""
_UNTRAINED = ("teacher", "labels", "function")


@dataclass(frozen=True)
class Rung:
    """What :func:`build_ladder` needs to know of one predictor.

    Attributes:
        name: As the recipe names it.
        kind: What it is.
        trained_on: In words: ``human``, ``labels``, a teacher's name; empty for what is not trained.
        predictions: ``row_id``, ``label``, ``probs``, for the paired difference to the rung before.
        evaluation: Its evaluation.
        parameters: Weights that it has.
        size_mb: Size on disk.
        pairs_per_s: Rows predicted a second on the machine that measured it.
        cost_usd: What the labels that it learned from cost; None where a price is unknown.
        train_s: Seconds to train.
        round: Round of distillation that made it, from 0; None where there are no rounds.
        changed: What is new since the round before, in words.
        estimate: What is said of it without any label by a person; None where that was not worked out.
        gain_over: Name of the earlier student that it is compared with; None for the one that :func:`build_ladder`
            chooses.
    """

    name: str
    kind: Kind
    trained_on: str
    predictions: pl.DataFrame
    evaluation: Evaluation
    parameters: int | None = None
    size_mb: float | None = None
    pairs_per_s: float | None = None
    cost_usd: float | None = None
    train_s: float | None = None
    round: int | None = None
    changed: str = ""
    estimate: LabelFreeEstimate | None = None
    gain_over: str | None = None


class LadderRow(Frozen):
    """One rung, as written and read back."""

    run: str | None = Field(None, description="the run it comes from, where several are compared")
    part: str | None = Field(None, description="the part of a task of several that it is measured on")
    name: str
    kind: Kind
    trained_on: str
    metric: str
    positive: str | None = None
    quality: Estimate
    others: dict[str, Estimate]
    truth_source: TruthSource
    unanswered: int = 0
    gain: Estimate | None = Field(None, description="paired difference of the metric to the rung named in gain_over")
    gain_over: str | None = None
    parameters: int | None = None
    size_mb: float | None = None
    pairs_per_s: float | None = None
    cost_usd: float | None = None
    train_s: float | None = None
    round: int | None = Field(None, description="round of distillation, from 0")
    changed: str = Field("", description="what is new since the round before")
    estimate: LabelFreeEstimate | None = Field(None, description="what is said of it without any label by a person")
    powered: PredictionPowered | None = Field(
        None, description="its quality on all test rows, where a part has labels: labels and guesses put together"
    )
    powered_gain: PredictionPowered | None = Field(None, description="the same of the gain")
    cost_per_point: float | None = Field(
        None,
        description="dollars paid for labels beyond those of gain_over, for each point (or 0.01) gained; None where "
        "the gain's interval holds zero, a cost is unknown, or nothing was paid",
    )

    @property
    def is_student(self) -> bool:
        """Whether it was trained here, as teachers and merged labels were not."""
        return self.kind not in _UNTRAINED

    @property
    def full_name(self) -> str:
        """Run, part and name, as far as there are any, and the round, where there are rounds."""
        name = self.name if self.round is None else f"{self.name}, round {self.round}"
        name = f"{self.part} · {name}" if self.part else name
        return f"{self.run}: {name}" if self.run else name


class Ladder(Frozen):
    """Rungs in the order they were reached."""

    rows: list[LadderRow]
    baseline: float | None = Field(None, description="what answering the commonest label always would score")

    @property
    def last_round(self) -> Ladder:
        """What stands in the last round, and what has no round; all of it where there are no rounds."""
        last = max((row.round for row in self.rows if row.round is not None), default=None)
        return self.model_copy(update={"rows": [row for row in self.rows if row.round in (None, last)]})

    @property
    def best(self) -> LadderRow | None:
        """The student of the highest quality, where there are rounds of the last one; None without one.

        None too where rungs are of several parts, whose metrics say nothing of each other: see :attr:`best_by_part`.
        """
        if any(row.part for row in self.rows):
            return None
        students = [row for row in self.last_round.rows if row.is_student and row.quality.value is not None]
        return max(students, key=lambda row: row.quality.value or 0.0, default=None)

    @property
    def best_by_part(self) -> list[LadderRow]:
        """The best student of each part, or of the ladder where it has none."""
        parts = dict.fromkeys((row.run, row.part) for row in self.last_round.rows)
        found = [
            max(
                (row for row in self.last_round.rows if (row.run, row.part) == part and row.is_student),
                key=lambda row: row.quality.value or 0.0,
                default=None,
            )
            for part in parts
        ]
        return [row for row in found if row is not None and row.quality.value is not None]

    def to_markdown(self) -> str:
        """The ladder as a Markdown table."""
        columns, lines = ladder_cells(self)
        cells = [columns, ["---"] * len(columns), *lines]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)

    def to_rich(self) -> Table:
        """The ladder as a table for the terminal."""
        from rich.markup import escape
        from rich.table import Table

        columns, lines = ladder_cells(self)
        # The caption says whose labels they are measured against; a column does where they differ.
        one_truth = len({row.truth_source for row in self.rows}) == 1
        shown = [place for place, column in enumerate(columns) if not (one_truth and column == "truth")]
        strong = self.best_by_part if any(row.part for row in self.rows) else [self.best]
        table = Table(title="Ladder", caption=self.caption(), caption_justify="left", pad_edge=False)
        for place in shown:
            table.add_column(columns[place], justify="left" if place < 2 else "right", overflow="fold")
        for row, line in zip(self.rows, lines, strict=True):
            table.add_row(*(escape(line[place]) for place in shown), style="bold" if row in strong else None)
        return table

    def caption(self) -> str:
        """One sentence that says what the numbers are measured against."""
        if not self.rows:
            return "no rungs"
        sources = sorted({row.truth_source for row in self.rows})
        quality = self.rows[0].quality
        said = f"Quality against {' and '.join(TRUTH_WORDS[source] for source in sources)}"
        if any(row.part for row in self.rows):
            said += f"; {100 * quality.level:g}% intervals over groups. Each part has a metric of its own."
        else:
            said += (
                f", {quality.rows:,} rows in {quality.groups:,} groups; {100 * quality.level:g}% intervals over groups."
            )
        if partial := [row for row in self.rows if row.unanswered]:
            found = ", ".join(f"{row.full_name} left {row.unanswered:,} without an answer" for row in partial)
            said += f" Numbers are of the rows that each answered: {found}."
        if any(row.round is not None for row in self.rows):
            said += " Gains are over the same student of the round before, on the same rows."
        elif any(row.gain is not None for row in self.rows):
            said += f" {_gains_said(self.rows)}"
        if any(row.powered is not None for row in self.rows):
            said += " With guesses for the rest: the same of all test rows, from these labels and what is predicted."
        if any(row.estimate is not None for row in self.rows):
            said += " Agreeing with teachers and expecting to be right are no accuracy: no label is behind them."
        if self.baseline is not None:
            said += f" Always answering the commonest label scores {100 * self.baseline:.1f}%."
        return said


def build_ladder(
    rungs: Sequence[Rung],
    rows: pl.DataFrame,
    *,
    task: Task,
    config: EvalConfig | None = None,
    seed: int = 0,
    split: str | None = "test",
) -> Ladder:
    """Puts rungs in a ladder, each student with its paired difference to an earlier one.

    That is the one that the rung names in ``gain_over``; else the first student of its kind, so that the gain is what
    other labels bought; the first of a kind is compared with the rung before it, so that its gain is what the kind
    bought.

    Args:
        rungs: In the order they were reached, all evaluated on the same rows.
        rows: The rows table that the evaluations read.
        task: What was asked.
        config: As given to ``evaluate``.
        seed: Of the resamples behind the differences.
        split: As given to ``evaluate``.

    Raises:
        DataError: Two rungs have one name, or ``gain_over`` names no earlier student.
    """
    config = config or EvalConfig()
    metric = primary_metric(task, config)
    names = [rung.name for rung in rungs]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise DataError(f"ladder: {sorted(repeated)} stand on it twice; name each rung once")
    lines: list[LadderRow] = []
    students: list[Rung] = []
    for rung in rungs:
        student = rung.kind not in _UNTRAINED
        over = _compared_with(rung, students) if student else None
        gain = None
        if over is not None:
            gain = paired_difference(
                rung.predictions, over.predictions, rows, task=task, config=config, seed=seed, split=split
            )
        lines.append(_line(rung, metric, gain=gain, over=over))
        students += [rung] if student else []
    baseline = rungs[0].evaluation.commonest.get(metric) if rungs else None
    return Ladder(rows=lines, baseline=baseline)


def _gains_said(rows: Sequence[LadderRow]) -> str:
    """Over whom gains are: by the rule where all follow it, else each by name."""
    usual = True
    for place, row in enumerate(rows):
        if row.gain_over is None:
            continue
        before = [one for one in rows[:place] if one.is_student and one.run == row.run]
        same_kind = [one for one in before if one.kind == row.kind]
        expected = same_kind[0] if same_kind else before[-1] if before else None
        usual = usual and expected is not None and expected.name == row.gain_over
    if usual:
        return "Gains are over the first student of the same kind; that one's is over the rung before it."
    return "Gains: " + ", ".join(f"{row.full_name} over {row.gain_over}" for row in rows if row.gain_over) + "."


def with_few_labels(ladder: Ladder, few: FewLabels) -> Ladder:
    """The ladder with what a few labels and many guesses say of its rungs, where that is of the same metric."""
    gains = {(one.better, one.than, one.metric): one.found for one in few.differences}
    rows = [
        row.model_copy(
            update={
                "powered": few.quality.get(row.name, {}).get(row.metric),
                "powered_gain": gains.get((row.name, row.gain_over or "", row.metric)),
            }
        )
        for row in ladder.rows
    ]
    return ladder.model_copy(update={"rows": rows})


def _compared_with(rung: Rung, earlier: Sequence[Rung]) -> Rung | None:
    """Who it names; else the first student of its kind, so that one thing differs, the labels; else the rung before."""
    if rung.gain_over is not None:
        named = next((student for student in earlier if student.name == rung.gain_over), None)
        if named is None:
            known = ", ".join(student.name for student in earlier) or "none"
            raise DataError(
                f"ladder: {rung.name} is to be compared with {rung.gain_over!r}; give a student before it: {known}"
            )
        return named
    same_kind = [student for student in earlier if student.kind == rung.kind]
    return same_kind[0] if same_kind else earlier[-1] if earlier else None


def _cost_per_point(rung: Rung, over: Rung | None, gain: Estimate | None) -> float | None:
    """What was paid for labels beyond those of the other rung, for each hundredth gained; people's are not counted."""
    if over is None or gain is None or gain.value is None or gain.low is None or gain.low <= 0 or not rung.cost_usd:
        return None
    earlier = 0.0 if over.trained_on == PEOPLE else over.cost_usd
    if earlier is None or rung.cost_usd <= earlier:
        return None
    return (rung.cost_usd - earlier) / (100 * gain.value)


def merge_ladders(ladders: Mapping[str, Ladder]) -> Ladder:
    """Stands the ladders of several runs below each other, for ``distill ladder RUN...``.

    Differences stay within their run: rows of two runs need not be the same.

    Args:
        ladders: By the run's name, in order.
    """
    lines = [row.model_copy(update={"run": run}) for run, ladder in ladders.items() for row in ladder.rows]
    floors = {ladder.baseline for ladder in ladders.values()}
    return Ladder(rows=lines, baseline=floors.pop() if len(floors) == 1 else None)


def _line(rung: Rung, metric: str, *, gain: Estimate | None, over: Rung | None) -> LadderRow:
    found = rung.evaluation
    return LadderRow(
        name=rung.name,
        kind=rung.kind,
        trained_on=rung.trained_on,
        metric=metric,
        positive=found.positive,
        quality=found.metrics[metric],
        others={name: value for name, value in found.metrics.items() if name != metric},
        truth_source=found.truth_source,
        unanswered=found.unanswered,
        gain=gain,
        gain_over=over.name if over else None,
        parameters=rung.parameters,
        size_mb=rung.size_mb,
        pairs_per_s=rung.pairs_per_s,
        cost_usd=rung.cost_usd,
        train_s=rung.train_s,
        round=rung.round,
        changed=rung.changed,
        estimate=rung.estimate,
        cost_per_point=_cost_per_point(rung, over, gain),
    )
