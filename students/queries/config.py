"""Settings of an encoder whose task is a query's: spelling, brand, category, expansion, spans, several labels."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

OVER_CORRECTION = 0.02
"""Share of right queries that a spelling student may change, where the section says nothing."""


class CorrectorSection(BaseModel):
    """A corrector that the student carries with it: it says what may have been meant, the network which it was."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    titles: str | None = Field(
        None,
        description="a file, folder or glob of the shop's titles, whose words are taken for right; of a recipe the "
        "rows of data.catalogue where not given",
    )
    column: str = Field("title", description="column of the titles")
    readings: int = Field(
        6, ge=1, le=32, description="corrections of a query, the likeliest ones, that the network chooses among"
    )


class SyntheticSection(BaseModel):
    """Training rows that are made, not labeled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    typos: float = Field(
        1.0,
        ge=0.0,
        le=50.0,
        description="misspelled copies of each training query that is taken to be right, with slips of keyboards, "
        "sounds and Korean jamo; 0.5 makes one of every second query",
    )
    names: float = Field(
        0.0,
        ge=0.0,
        le=50.0,
        description="copies of each training query that has a brand or other spans, with these exchanged for others of "
        "their type, from task.brands and the other queries",
    )
    alone: bool = Field(
        False,
        description="learn spelling from these copies and from the queries that are taken to be right, and from no "
        "correction that a teacher made",
    )


SpanUnits = Literal["auto", "words", "pieces"]


class SpansSection(BaseModel):
    """How spans of a text are found: brands, or those of a task of type spans."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    units: SpanUnits = Field(
        "auto",
        description="what is marked: words, seen with their letters; pieces, as the base's tokenizer cuts them, for "
        "spans within words; auto takes words where 98% of the training spans begin and end where words do",
    )
    listed: bool = Field(
        True,
        description="of brands that are marked on words: tell the network where names of task.brands stand; it learns "
        "how far to believe the list",
    )
    unanswered: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="how hard a query pulls as one without spans that no source of train_on answered; for a dictionary "
        "alone, which never says that there is none",
    )
