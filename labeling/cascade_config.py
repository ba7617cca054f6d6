"""The ``cascade`` section of ``labeling``: ask a cheap teacher first, a strong one only where that is unsure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Measure = Literal["agreement", "accuracy", "positive_precision"]
SurenessBy = Literal["confidence", "margin", "entropy"]


class CascadeConfig(BaseModel):
    """Which answers of a cheap teacher are kept, and which rows go on to a strong one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: tuple[str, str] = Field(description="the cheap teacher, then the strong one, by name")
    target: float = Field(
        default=0.95, gt=0, lt=1, description="share of the cheap teacher's kept answers that are to be right"
    )
    measure: Measure = Field(
        default="agreement",
        description="what right is. agreement: the label that the strong teacher gives; accuracy: the gold label, of "
        "splits train and audit; positive_precision: positive also by gold, counted over kept positive answers alone",
    )
    confidence: float = Field(
        default=0.95, ge=0.5, lt=1, description="probability, over draws of calibration rows, that the target is met"
    )
    calibration: int = Field(
        default=200,
        ge=20,
        description="rows on which both are asked to set the threshold: whole groups by a draw, at least this many",
    )
    by: SurenessBy = Field(
        default="confidence",
        description="how sure an answer is: probability of the likeliest label, its margin over the second, or one "
        "minus the entropy of all",
    )

    @field_validator("order")
    @classmethod
    def _differ(cls, value: tuple[str, str]) -> tuple[str, str]:
        if value[0] == value[1]:
            raise ValueError(f"names {value[0]} twice; give the cheap teacher, then another one")
        return value

    @property
    def cheap(self) -> str:
        """Who is asked first."""
        return self.order[0]

    @property
    def strong(self) -> str:
        """Who is asked where the first one is unsure."""
        return self.order[1]
