"""What a comparison of two sets of rows found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distill.eval.drift.config import ColumnKind
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate
from distill.eval.scored import TruthSource

Verdict = Literal["steady", "moved", "cannot tell"]
Part = Literal["inputs", "predictions", "quality"]
DistanceName = Literal[
    "psi", "jensen_shannon", "kolmogorov_smirnov", "total_variation", "auc", "difference", "standing_out"
]


class SetFacts(Frozen):
    """One of the two sets."""

    name: str
    rows: int = Field(description="rows looked at")
    groups: int = Field(description="groups of them")
    rows_read: int = Field(description="rows there are; more than rows where groups were sampled")
    common: float = Field(description="share of its rows whose group the other set has too")
    note: str | None = Field(None, description="what was left out, in words")


class Distance(Frozen):
    """How far the sets are apart in one respect, and how far chance alone takes them apart."""

    value: float
    by_chance: float = Field(description="19 of 20 exchanges of groups stay below this")
    p_value: float = Field(description="share of the exchanges that come as far, for this distance alone")


class Comparison(Frozen):
    """One thing that was compared."""

    part: Part
    column: str = Field(description="the column, or what it is of the predictions")
    measure: str = Field(description="length, empty, unseen words, words, values, unseen values, numbers, whole row, …")
    reference: float | None = Field(None, description="mean or share in the reference, where there is one number")
    current: float | None = None
    unit: Literal["share", "words", "number", "score"] = "share"
    difference: Estimate | None = Field(None, description="current less reference, interval by group")
    size: float = Field(description="share of the rows that would have to change to make the sets alike, 0 to 1")
    size_by_chance: float = Field(description="19 of 20 exchanges of groups stay below this")
    tested: DistanceName = Field(description="the distance whose p-value counts")
    distances: dict[str, Distance]
    p_value: float
    adjusted_p: float = Field(description="for the number of comparisons")
    verdict: Verdict


class ValueShift(Frozen):
    """A value of a column, then and now."""

    column: str
    value: str
    reference: float = Field(description="share of the reference's rows")
    current: float
    difference: Estimate
    state: Literal["both", "new", "vanished"]


class WordShift(Frozen):
    """A word of a text column, then and now."""

    column: str
    word: str
    reference: float = Field(description="share of the reference's rows with it")
    current: float
    sure: bool = Field(description="whether no word moves as far in 19 of 20 exchanges, at alpha 0.05")


class TellingRow(Frozen):
    """A current row that looks least like the reference."""

    row_id: str
    score: float = Field(description="how surely the classifier calls it a current row, where it did not learn from it")
    inputs: dict[str, str]


class SliceShare(Frozen):
    """Where the drift sits."""

    column: str
    value: str
    reference: float = Field(description="share of the reference's rows")
    current: float
    contribution: float = Field(
        description="part of what tells the sets apart that its current rows carry; a column's values add up to 1"
    )


class TwoSample(Frozen):
    """The classifier two-sample test on whole rows."""

    auc: Estimate = Field(
        description="on the half of the groups that it did not learn from: 0.5 where the sets cannot be told apart"
    )
    rows: int = Field(description="rows of both halves")
    toward_current: tuple[str, ...] = Field(description="what speaks most for a current row: column: word")
    toward_reference: tuple[str, ...]
    telling: tuple[TellingRow, ...]
    slices: tuple[SliceShare, ...] = Field(description="most contributing first; empty where nothing was told apart")


class Quality(Frozen):
    """What can be said of the student's quality on the current rows. Only what people labeled gives an accuracy."""

    student: str
    expected_reference: Estimate = Field(description="how often it expects to be right: an expectation, no accuracy")
    expected_current: Estimate
    difference: Estimate
    gap: Estimate | None = Field(
        None, description="on the reference's gold: mean confidence less share right; the expectation's bias there"
    )
    measured_reference: Estimate | None = Field(None, description="share right on the reference's gold")
    reweighted: Estimate | None = Field(
        None, description="share right on the reference's gold, its rows weighted to look like the current ones"
    )
    effective_rows: float | None = Field(None, description="rows that the weighted ones are worth")
    measured_current: Estimate | None = Field(None, description="share right on the current gold")
    truth_source: TruthSource = Field("human", description="who gave the gold labels")
    notes: tuple[str, ...] = ()


class PartVerdict(Frozen):
    """The verdict on one part, in words, and what to do."""

    part: Part
    verdict: Verdict
    said: str
    next: tuple[str, ...] = ()


class DriftReport(Frozen):
    """Two sets of rows compared."""

    reference: SetFacts
    current: SetFacts
    kinds: dict[str, ColumnKind] = Field(description="how each column was taken")
    comparisons: tuple[Comparison, ...]
    values: tuple[ValueShift, ...] = Field(description="values of categories, largest shift first")
    words: tuple[WordShift, ...] = Field(description="words of texts, largest shift first")
    whole: TwoSample | None = Field(None, description="None where either set has too few groups")
    quality: Quality | None = Field(None, description="None without predictions")
    verdicts: tuple[PartVerdict, ...]
    alpha: float
    smallest: float
    exchanges: int
    notes: tuple[str, ...] = ()

    @property
    def moved(self) -> bool:
        """Whether any part is called moved."""
        return any(one.verdict == "moved" for one in self.verdicts)

    @property
    def verdict(self) -> Verdict:
        """The verdict on all parts together: moved where one is, steady where all are."""
        if self.moved:
            return "moved"
        return "steady" if all(one.verdict == "steady" for one in self.verdicts) else "cannot tell"

    def of(self, part: Part) -> PartVerdict | None:
        """The verdict on one part, None where it was not looked at."""
        return next((one for one in self.verdicts if one.part == part), None)
