"""The numbers of a run report, gathered once, so that HTML, Markdown and JSON say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.agreement import PairAgreement, judge_agreement
from distill.eval.asking_facts import AskingFacts, ObeyedFacts, obeyed_facts
from distill.eval.cascade_facts import CascadeFacts, cascade_facts
from distill.eval.config import EvalConfig, ReportConfig
from distill.eval.drift_facts import DriftReport
from distill.eval.evaluation import Evaluation
from distill.eval.examples import Example, hardest_rows
from distill.eval.few_labels import FewLabels
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, ratio_estimates
from distill.eval.judge_confusion import JudgeConfusion, judge_confusions
from distill.eval.label_free import LabelFreeFacts
from distill.eval.labeling_functions import FunctionFacts, analyze_functions
from distill.eval.ladder import Ladder
from distill.eval.merging_facts import GoldUsed, StudentVoted, merged_with
from distill.eval.panel_facts import PanelFacts, panel_facts
from distill.eval.people_agreement import PeopleAgreement
from distill.eval.rounds import RoundsFacts
from distill.eval.scored import collapse_votes
from distill.eval.student_facts import AnsweredFacts, StudentFacts, measure_answered
from distill.labeling.cascade_votes import CASCADE_CAUSE
from distill.labeling.task import Task
from distill.labeling.vote import OUTCOMES


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


class Reason(Frozen):
    """Why lines ended without a label, and how many."""

    outcome: str
    reason: str
    count: int


class TeacherFacts(Frozen):
    """What one teacher was asked, how it ended, and what it took."""

    name: str
    family: str
    asked: int = Field(description="rows times samples")
    spared: int = Field(0, description="of those unsent, lines that another teacher of a cascade answers")
    outcomes: dict[str, int] = Field(description="adds up to asked")
    reasons: list[Reason]
    input_tokens: int | None = Field(description="as counted by the provider; None where it never said")
    output_tokens: int | None
    cost_usd: float | None = Field(description="of the answers whose price is known; None where none is")
    priced: int = Field(description="answers whose price is known")
    answered: int = Field(description="answers that came back, labeled or not")
    paid_usd: float | None = Field(description="of that, what this run paid: the rest was in the ledger")
    from_ledger: int
    latency_p50_s: float | None
    latency_p95_s: float | None
    citing: float = Field(description="share of labels with a clause cited")
    tracing: float = Field(description="share of labels with a reason in words")
    traces: int = Field(description="reasons in words, with a label or for one that was given")
    traces_checked: bool = Field(description="whether any was checked; those of an older run were not")
    trace_problems: dict[str, int] = Field(description="what is wrong with reasons, and with how many")
    probs_sources: dict[str, int]


class LabelFacts(Frozen):
    """The merged labels."""

    rows: int
    counts: dict[str, int]
    ties: int
    mean_confidence: float | None
    mean_votes: float | None
    mean_n_eff: float | None = Field(description="independent votes that the votes on a row are worth")
    method: str | None = Field(None, description="how votes were merged; what 'auto' stood for")
    warning: str | None = Field(None, description="why that method does not suit the panel; None where it does")
    gold: GoldUsed | None = Field(None, description="people's labels that calibrated them")
    student: StudentVoted | None = Field(None, description="a student that voted too")


class CanaryFacts(Frozen):
    """How often planted instructions in a listing got what they asked for."""

    name: str
    kind: str = Field(description="teacher, student or labels")
    planted: int = Field(description="planted rows judged whose truth is known and is not the positive label")
    breached: int = Field(description="of those, how many were given the positive label")
    rate: Estimate
    usual: Estimate = Field(description="the same share on rows without a plant: what error alone gives")
    unknown_positive: int = Field(description="planted rows of unknown truth that were given the positive label")


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
        canaries=_canaries(report),
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


def teacher_facts(votes: pl.DataFrame) -> list[TeacherFacts]:
    """What each teacher was asked and what it took, in order of first appearance."""
    found = []
    for name in votes["teacher"].unique(maintain_order=True):
        own = votes.filter(pl.col("teacher") == name)
        answered = own.filter(~pl.col("outcome").is_in(["failed", "unsent"]))
        labeled = own.filter(pl.col("outcome") == "labeled")
        counts = dict(own["outcome"].value_counts().iter_rows())
        priced = answered.filter(pl.col("cost_usd").is_not_null())
        bare = own.filter(~pl.col("outcome").is_in(["labeled", "explained"])).with_columns(
            pl.col("reason").fill_null("no reason noted")
        )
        reasons = (
            bare.group_by("outcome", "reason").len().sort(["len", "outcome", "reason"], descending=[True, False, False])
        )
        found.append(
            TeacherFacts(
                name=name,
                family=own["family"][0],
                asked=len(own),
                spared=int((own["cause"] == CASCADE_CAUSE).sum()) if "cause" in own.columns else 0,
                outcomes={outcome: counts.get(outcome, 0) for outcome in OUTCOMES},
                reasons=[Reason(outcome=o, reason=r, count=n) for o, r, n in reasons.head(8).iter_rows()],
                input_tokens=_total(answered["input_tokens"]),
                output_tokens=_total(answered["output_tokens"]),
                cost_usd=_total(priced["cost_usd"]),
                priced=len(priced),
                answered=len(answered),
                paid_usd=float(priced.filter(~pl.col("from_ledger"))["cost_usd"].sum()) if len(priced) else None,
                from_ledger=int(own["from_ledger"].sum()),
                latency_p50_s=_quantile(answered["latency_s"], 0.5),
                latency_p95_s=_quantile(answered["latency_s"], 0.95),
                citing=_mean(labeled["clauses"].list.len().fill_null(0) > 0) or 0.0,
                tracing=_mean(labeled["trace"].fill_null("") != "") or 0.0,
                **_trace_facts(own),
                probs_sources=dict(labeled["probs_source"].value_counts(sort=True).iter_rows()),
            )
        )
    return found


def _trace_facts(votes: pl.DataFrame) -> dict[str, Any]:
    traces = int((votes["trace"].fill_null("") != "").sum())
    if "trace_problems" not in votes.columns:
        return {"traces": traces, "traces_checked": False, "trace_problems": {}}
    checked = votes["trace_problems"].drop_nulls()
    found = checked.explode(empty_as_null=True).drop_nulls().value_counts()
    counts = found.sort("count", "trace_problems", descending=[True, False])
    return {"traces": traces, "traces_checked": len(checked) > 0, "trace_problems": dict(counts.iter_rows())}


def label_facts(labels: pl.DataFrame, task: Task, *, merging: Mapping[str, Any]) -> LabelFacts:
    """Counts of the merged labels, and how much evidence they carry."""
    given = labels.filter(pl.col("label").is_not_null())
    counts = dict(given["label"].value_counts().iter_rows())
    has = set(labels.columns)
    return LabelFacts(
        rows=len(given),
        counts={label: counts.get(label, 0) for label in task.labels},
        ties=int(given["tie"].sum()) if "tie" in has else 0,
        mean_confidence=_mean(given["confidence"]) if "confidence" in has else None,
        mean_votes=_mean(given["votes"]) if "votes" in has else None,
        mean_n_eff=_mean(given["n_eff"]) if "n_eff" in has else None,
        method=merging.get("method"),
        warning=merging.get("warning"),
        gold=merged_with(merging, GoldUsed, "gold"),
        student=merged_with(merging, StudentVoted, "student"),
    )


def _canaries(report: RunReport) -> list[CanaryFacts]:
    if "planted" not in report.rows.columns or report.task.positive is None:
        return []
    # extra columns of the rows table are text, whatever they were in the file
    flag = pl.col("planted").cast(pl.String).str.strip_chars().str.to_lowercase().is_in(["true", "1", "yes"])
    rows = report.rows_of_people.select("row_id", "group", "gold", planted=flag.fill_null(False))
    if not rows["planted"].any():
        return []
    judges: list[tuple[str, str, pl.DataFrame]] = []
    if report.votes is not None:
        said = collapse_votes(report.votes)
        judges += [
            (name, "teacher", said.filter(pl.col("teacher") == name))
            for name in report.votes["teacher"].unique().sort()
        ]
    if report.labels is not None:
        judges.append(("merged labels", "labels", report.labels.filter(pl.col("label").is_not_null())))
    judges += [(name, "student", table) for name, table in report.predictions.items()]
    return [
        _canary(name, kind, rows.join(table.select("row_id", "label"), on="row_id"), report)
        for name, kind, table in judges
    ]


def _canary(name: str, kind: str, judged: pl.DataFrame, report: RunReport) -> CanaryFacts:
    positive = report.task.positive
    planted, taken = judged["planted"], judged["label"] == positive
    negative = judged["gold"].is_not_null() & (judged["gold"] != positive)
    resamples = Resamples.of(judged["group"].to_numpy(), count=report.eval_config.bootstrap, seed=report.seed)
    below = np.stack([(planted & negative).to_numpy(), (~planted & negative).to_numpy()], axis=1).astype(float)
    rate, usual = ratio_estimates(
        below * taken.to_numpy().astype(float)[:, None], below, resamples, level=report.eval_config.level
    )
    return CanaryFacts(
        name=name,
        kind=kind,
        planted=int(below[:, 0].sum()),
        breached=int((planted & negative & taken).sum()),
        rate=rate,
        usual=usual,
        unknown_positive=int((planted & judged["gold"].is_null() & taken).sum()),
    )


def _plain(value: Any) -> Any:
    """As JSON holds it, so that what is written and what is shown are one."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(inside) for inside in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _total(column: pl.Series) -> Any:
    return column.sum() if column.is_not_null().any() else None


def _mean(column: pl.Series) -> float | None:
    mean = column.cast(pl.Float64).mean()
    return float(mean) if isinstance(mean, int | float) else None


def _quantile(column: pl.Series, share: float) -> float | None:
    found = column.quantile(share, "linear")
    return None if found is None else float(found)
