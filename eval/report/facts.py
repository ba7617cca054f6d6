"""The numbers of a run report, gathered once, so that HTML, Markdown and JSON say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from pydantic import Field

from distill.eval.agreement import PairAgreement, judge_agreement
from distill.eval.config import EvalConfig, ReportConfig
from distill.eval.drift.facts import DriftReport
from distill.eval.evaluation import Evaluation
from distill.eval.few_labels import FewLabels
from distill.eval.frozen import Frozen
from distill.eval.label_free import LabelFreeFacts
from distill.eval.labeling_functions import FunctionFacts, analyze_functions
from distill.eval.ladder import Ladder
from distill.eval.people.agreement import PeopleAgreement
from distill.eval.report.asking_facts import AskingFacts, ObeyedFacts, obeyed_facts
from distill.eval.report.canary_facts import CanaryFacts, canary_facts
from distill.eval.report.cascade_facts import CascadeFacts, cascade_facts
from distill.eval.report.examples import Example, hardest_rows
from distill.eval.report.judge_confusion import JudgeConfusion, judge_confusions
from distill.eval.report.labeling_facts import LabelFacts, TeacherFacts, label_facts, teacher_facts
from distill.eval.report.panel_facts import PanelFacts, panel_facts
from distill.eval.report.student_facts import AnsweredFacts, StudentFacts, measure_answered
from distill.eval.rounds import RoundsFacts
from distill.labeling.task import Task


class FileLink(Frozen):
    """A file that the report links to."""

    href: str = Field(description="address relative to the report")
    holds: str = Field(description="what is in it, in words")


@dataclass(frozen=True)
class RunReport:
    """What a run report is made of.

    Attributes:
        name: Of the run.
        task: What was asked.
        rows: The rows table, with the truth that the evaluations were measured against in ``gold``. Where that is
            merged labels (truth source ``teacher``) nothing is said of gold that people gave.
        ladder: The ladder.
        evaluations: By the name of student, teacher or labels.
        votes: The votes table; None without teachers.
        labels: The labels table; None without teachers.
        predictions: By student.
        summary: What came in and what was wrong with it: a flat mapping of counts, lists and mappings of counts.
        manifest: What the run was made of (versions, hashes, seeds), as nested mappings.
        review_href: Address of the guideline review, relative to the report; None without one.
        eval_config: Resamples and level of the report's own intervals.
        config: What is shown.
        seed: Of the resamples.
        canaries: Answers to the run's own canaries; None where it had none.
        labeling: Facts of the labeling stage.
        labeling_functions: Names of the teachers that are labeling functions: they are measured apart, and stand in no
            table of pairs.
        merging: How votes were merged: ``method``, and ``warning`` where it does not suit the panel.
        students: How each student was made.
        files: What lies beside the report, in the order to show it in.
        rounds: The rounds, where there were any; the ladder is then that of the last one.
        label_free: What is said of teachers and students without labels; None where that was not worked out.
        few_labels: What the test rows with labels tell of all; None where all have one, or none has.
        people: Annotators beside the models; None where no annotator's own labels are known.
        drift: Today's rows against those of the run; None where the recipe watches none.
    """

    name: str
    task: Task
    rows: pl.DataFrame
    ladder: Ladder
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    votes: pl.DataFrame | None = None
    labels: pl.DataFrame | None = None
    predictions: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    review_href: str | None = None
    eval_config: EvalConfig = field(default_factory=EvalConfig)
    config: ReportConfig = field(default_factory=ReportConfig)
    seed: int = 0
    canaries: pl.DataFrame | None = None
    labeling: Mapping[str, Any] = field(default_factory=dict)
    labeling_functions: Sequence[str] = ()
    merging: Mapping[str, Any] = field(default_factory=dict)
    students: Mapping[str, StudentFacts] = field(default_factory=dict)
    files: Sequence[FileLink] = ()
    rounds: RoundsFacts | None = None
    label_free: LabelFreeFacts | None = None
    few_labels: FewLabels | None = None
    people: PeopleAgreement | None = None
    drift: DriftReport | None = None

    @property
    def against_teachers(self) -> bool:
        """Whether ``gold`` holds merged labels, so that it must not be called the truth."""
        return any(found.truth_source == "teacher" for found in self.evaluations.values())

    @property
    def rows_of_people(self) -> pl.DataFrame:
        """The rows, with ``gold`` only where people or the data's author gave it."""
        return self.rows.with_columns(gold=pl.lit(None, dtype=pl.String)) if self.against_teachers else self.rows


class RunFacts(Frozen):
    """Everything that a run report shows. This is what ``report.json`` holds."""

    name: str
    labels_of_task: tuple[str, ...]
    positive: str | None
    inputs: tuple[str, ...]
    ladder: Ladder
    evaluations: dict[str, Evaluation]
    teachers: list[TeacherFacts]
    pairs: list[PairAgreement]
    labels: LabelFacts | None
    panel: PanelFacts | None = Field(None, description="what the teachers' votes are worth together")
    canaries: list[CanaryFacts] = Field(description="rows of the data that carry an order, against their truth")
    obeyed: list[ObeyedFacts] = Field(description="copies made by this run that carry an order, against the row itself")
    asking: AskingFacts
    functions: list[FunctionFacts] = Field(default_factory=list, description="the teachers that are functions or rules")
    cascade: CascadeFacts | None = Field(None, description="who answered what, where a cascade was asked for")
    examples: list[Example]
    students: dict[str, StudentFacts] = Field(default_factory=dict, description="how each student was made")
    answered: dict[str, AnsweredFacts] = Field(
        default_factory=dict, description="of the students that leave rows unanswered"
    )
    confusions: list[JudgeConfusion] = Field(default_factory=list, description="judges with judges, without a truth")
    people: PeopleAgreement | None = Field(None, description="annotators beside the models")
    files: list[FileLink] = Field(default_factory=list)
    rounds: RoundsFacts | None = Field(None, description="what each round asked, cost and gained")
    label_free: LabelFreeFacts | None = Field(None, description="teachers and students, without labels by people")
    few_labels: FewLabels | None = Field(None, description="where a part of the test rows has labels: all of them")
    drift: DriftReport | None = Field(None, description="today's rows against those of the run")
    examples_of: str | None = Field(description="whose mistakes the examples are")
    summary: dict[str, Any]
    manifest: dict[str, Any]
    review_href: str | None


def gather(report: RunReport) -> RunFacts:
    """Computes what the report shows.

    Raises:
        DataError: Tables that do not fit each other.
    """
    votes, task = report.votes, report.task
    pairs: list[PairAgreement] = []
    judges = None if votes is None else votes.filter(~pl.col("teacher").is_in(list(report.labeling_functions)))
    if judges is not None and judges["teacher"].n_unique() > 1:
        pairs = judge_agreement(judges, report.rows_of_people, task=task, config=report.eval_config, seed=report.seed)
    best = report.ladder.best
    shown = best.name if best else None
    return RunFacts(
        name=report.name,
        labels_of_task=task.labels,
        positive=task.positive,
        inputs=task.inputs,
        ladder=report.ladder,
        evaluations=dict(report.evaluations),
        teachers=[] if votes is None else teacher_facts(votes),
        pairs=pairs,
        labels=None if report.labels is None else label_facts(report.labels, task, merging=report.merging),
        panel=_panel(report),
        canaries=canary_facts(report),
        obeyed=obeyed_facts(report.canaries, config=report.eval_config, seed=report.seed),
        asking=AskingFacts.of(report.labeling),
        functions=_functions(report),
        cascade=cascade_facts(
            report.labeling.get("cascade"),
            votes,
            report.rows_of_people,
            task=task,
            config=report.eval_config,
            seed=report.seed,
        ),
        examples=hardest_rows(report, student=shown),
        examples_of=shown if shown in report.predictions else None,
        students=dict(report.students),
        answered=measure_answered(
            report.predictions, report.rows, task=task, config=report.eval_config, seed=report.seed
        ),
        confusions=judge_confusions(judges, report.predictions, task=task),
        people=report.people,
        files=list(report.files),
        rounds=report.rounds,
        label_free=report.label_free,
        few_labels=report.few_labels,
        drift=report.drift,
        summary=_plain(report.summary),
        manifest=_plain(report.manifest),
        review_href=report.review_href,
    )


def _panel(report: RunReport) -> PanelFacts | None:
    if report.votes is None or report.labels is None or report.labeling.get("cascade"):
        return None
    gold = report.rows_of_people.filter(pl.col("gold").is_not_null()).select("row_id", "gold")
    return panel_facts(report.votes, task=report.task, gold=gold, leave_out=report.labeling_functions)


def _functions(report: RunReport) -> list[FunctionFacts]:
    if report.votes is None or not report.labeling_functions:
        return []
    return analyze_functions(
        report.votes,
        report.rows_of_people,
        functions=report.labeling_functions,
        config=report.eval_config,
        seed=report.seed,
    )


def _plain(value: Any) -> Any:
    """As JSON holds it, so that what is written and what is shown are one."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(inside) for inside in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
