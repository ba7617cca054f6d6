"""What the measurement of a query task found: everybody on every part, as ``evaluations.json`` holds it."""

from __future__ import annotations

from pydantic import Field

from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate
from distill.eval.ladder import Kind
from distill.eval.queries.metrics import PairedClaim
from distill.eval.scored import TruthSource


class Check(Frozen):
    """How often a predictor's answers pass a check that needs no label."""

    name: str = Field(description="what has to hold")
    passed: Estimate = Field(description="share of the answers that the check speaks of")


class SliceFigure(Frozen):
    """The part's metric on the rows of one value of a column."""

    column: str
    value: str
    found: Estimate


class PartEvaluation(Frozen):
    """One predictor on one part."""

    name: str
    kind: Kind
    rows: int = Field(description="measured rows that it answered")
    unanswered: int = Field(description="measured rows that it left without an answer; they are in no number")
    metrics: dict[str, Estimate]
    agreement: Estimate | None = Field(
        description="how far it says the same as the merged labels on the test rows: no accuracy; None without them"
    )
    checks: list[Check] = Field(default_factory=list, description="without labels")
    slices: list[SliceFigure] = Field(default_factory=list, description="the part's metric by eval.slices")


class TeacherClaim(Frozen):
    """Is a student at least as good as a teacher? One-sided, on the rows that both answered."""

    student: str
    teacher: str
    claim: PairedClaim


class Mistake(Frozen):
    """A row that the predictor shown got wrong, beside what the others say."""

    row_id: str
    query: str
    truth: str
    said: str
    confidence: float | None
    others: dict[str, str]
    note: str = ""


class PartMeasurement(Frozen):
    """Everybody on one part."""

    part: str = Field(description="name of the part; the task's type where it has none")
    type: str = Field(description="type of the part")
    metric: str = Field(description="what predictors are compared by")
    truth_source: TruthSource
    judged: bool = Field(False, description="measured by what expansions retrieve of judged products")
    rows: int = Field(description="test rows that can be measured")
    groups: int
    evaluations: list[PartEvaluation]
    claims: list[TeacherClaim] = Field(default_factory=list)
    check_claims: list[TeacherClaim] = Field(
        default_factory=list,
        description="the same by each check that needs no label, whose name is the metric: how often answers pass it",
    )
    shown: str | None = Field(None, description="whose mistakes are listed: the best student, else the merged labels")
    mistakes: list[Mistake] = Field(default_factory=list)
    wrong: int = Field(0, description="rows that the one shown got wrong, of which the most telling are listed")


class QueryMeasurement(Frozen):
    """What ``evaluations.json`` holds of a task whose answers are no single label."""

    parts: list[PartMeasurement]
