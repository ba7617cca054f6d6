"""The ``rounds`` section of a recipe: choose rows, ask teachers, merge, train, measure, and again."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field, field_validator

from distill.eval.row_choice import DEFAULT_SHARES, ChoiceRule


class RecheckConfig(BaseModel):
    """A stronger teacher who is asked again about labels that a student contradicts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str = Field(description="who is asked, by name; asked about nothing else, and its answer stands alone")
    rows: int = Field(100, ge=1, description="rows asked again a round, at most: the most clearly contradicted first")


class RoundsConfig(BaseModel):
    """How the loop goes, and when it ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(5, ge=1, description="rounds at most, the first one counted")
    rows: int = Field(500, ge=1, description="new rows a round that every teacher is asked about")
    first: int | None = Field(
        None, ge=1, description="rows of the first round, drawn at random; as many as rows where not given"
    )
    choose: dict[ChoiceRule, float] = Field(
        default=dict(DEFAULT_SHARES),
        min_length=1,
        description="share of a round's rows by rule: uncertainty (the student is unsure), disagreement (students "
        "differ), diversity (unlike what was asked), frequency (asked often by shoppers), random",
    )
    candidates: int = Field(
        50_000, ge=1, description="rows among which a round chooses: so many of those not asked, by a draw"
    )
    student: str | None = Field(
        None,
        description="whose predictions choose rows and whose gain decides; the last that learns from teachers where "
        "not given",
    )
    until_no_gain: bool = Field(
        True, description="end when the interval of the student's gain includes zero; false goes on to the count"
    )
    patience: int = Field(
        1,
        ge=1,
        description="rounds in a row without a shown gain over the last round that had one, after which it ends",
    )
    budget_usd: float | None = Field(
        None,
        ge=0,
        description="what the answers of all rounds may cost together, also those that the ledger holds; a round that "
        "it would not bear is made smaller, or not begun",
    )
    recheck: RecheckConfig | None = Field(
        None, description="ask a stronger teacher again where a student contradicts the merged label"
    )
    control: bool = Field(
        False,
        description="beside every round's chosen rows ask as many random ones, for a student of their own: what "
        "choosing bought; asks twice as much",
    )

    @field_validator("choose")
    @classmethod
    def _shares_are_shares(cls, value: dict[str, float]) -> dict[str, float]:
        wrong = {rule: share for rule, share in value.items() if not (math.isfinite(share) and share >= 0)}
        if wrong or not sum(value.values()) > 0:
            raise ValueError(f"shares are numbers of at least 0, and one is above; got {value}")
        return value

    @property
    def first_rows(self) -> int:
        """Rows of the first round."""
        return self.rows if self.first is None else self.first

    @property
    def most_rows(self) -> int:
        """Rows that the rounds ask about in all, at most; those that are held out and those of the control aside."""
        return self.first_rows + (self.count - 1) * self.rows
