"""Settings of an encoder whose task is a query's: spelling, brand, category, expansion, spans, several labels."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

OVER_CORRECTION = 0.02
"""Share of right queries that a spelling student may change, where the section says nothing."""


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
