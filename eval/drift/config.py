"""How two sets of rows are compared, and the ``monitor`` section of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ColumnKind = Literal["text", "category", "number"]
Correction = Literal["benjamini_hochberg", "benjamini_yekutieli"]
EVERY_SPLIT = "all"
REFERENCE_SPLITS = ("test", "train", "audit", "pool", EVERY_SPLIT)


class DriftConfig(BaseModel):
    """How two sets of rows are compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="how often, at most, anything is called moved where nothing has changed"
    )
    smallest: float = Field(
        0.02,
        ge=0,
        le=1,
        description="shifts of less than this share of the rows count as steady, however sure they are",
    )
    resamples: int = Field(
        999,
        ge=199,
        le=100_000,
        description="exchanges of groups behind every p-value; more where there are many columns",
    )
    level: float = Field(0.95, gt=0.5, lt=1.0, description="coverage that an interval aims at")
    correction: Correction = Field(
        "benjamini_hochberg",
        description="for the number of columns: benjamini_yekutieli holds whatever their dependence, and sees less",
    )
    few_groups: int = Field(20, ge=2, description="with fewer groups than this in either set nothing is called steady")
    max_groups: int = Field(10_000, ge=50, description="groups of each set that are looked at; more are sampled")
    rows_per_group: int = Field(50, ge=1, description="rows of a group that are looked at; more are sampled")
    classifier_rows: int = Field(20_000, ge=200, description="rows that the classifier of both sets learns from")
    kinds: dict[str, ColumnKind] = Field(
        default_factory=dict, description="what a column is: text, category or number; found out where not given"
    )


class MonitorConfig(DriftConfig):
    """The ``monitor`` section of a recipe: rows of today against those that the students know."""

    rows: str | list[str] = Field(
        description="the rows of today: files as in data.rows, with the same columns; data.columns applies"
    )
    reference: str | list[str] = Field(
        "test", description="what they are held against: a split of the run (or all of it), or files"
    )
    student: str | None = Field(None, description="whose predictions are compared; the best one where none is given")
    other_student: str | None = Field(None, description="a second one: how often the two disagree, then and now")
    time: str | None = Field(
        None, description="column with when a row was seen (ISO 8601, or a number); with since, rows are cut in two"
    )
    since: str | None = Field(
        None, description="rows of this time or later are the current ones; those before are the reference"
    )
    id: str | list[str] | None = Field(None, description="columns that name a row of today; data.id where it has them")
    gold: str | None = Field(None, description="column with people's labels of today; data.gold where it has one")

    @field_validator("rows")
    @classmethod
    def _not_empty(cls, value: str | list[str]) -> str | list[str]:
        if not value or any(not str(name).strip() for name in ([value] if isinstance(value, str) else value)):
            raise ValueError("is empty; name at least one file")
        return value

    @field_validator("since", mode="before")
    @classmethod
    def _dates_are_text(cls, value: object) -> object:
        """YAML reads 2026-11-01 as a date and 1700000000 as a number."""
        return None if value is None else str(value)

    @model_validator(mode="after")
    def _time_needs_since(self) -> MonitorConfig:
        if (self.time is None) != (self.since is None):
            raise ValueError(
                "time and since go together: the column, and the time from which rows are the current ones"
            )
        return self

    @property
    def on_a_split(self) -> bool:
        """Whether the reference is a split of the run, or all of it."""
        return isinstance(self.reference, str) and self.reference in REFERENCE_SPLITS

    @property
    def drift(self) -> DriftConfig:
        """The part that says how two sets are compared."""
        return DriftConfig(**{name: getattr(self, name) for name in DriftConfig.model_fields})
