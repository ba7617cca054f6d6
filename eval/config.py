"""The ``eval`` and ``report`` sections of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MetricName = Literal["positive_accuracy", "accuracy", "macro_f1", "auc"]
"""Metrics by which a ladder may be ordered."""


class EvalConfig(BaseModel):
    """How quality is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap: int = Field(2000, ge=100, le=100_000, description="resamples of the groups behind every interval")
    level: float = Field(0.95, gt=0.5, lt=1.0, description="coverage that an interval aims at")
    slices: tuple[str, ...] = Field((), description="columns whose values get numbers of their own")
    slice_values: int = Field(30, ge=1, description="values of a slice column that are shown, most frequent first")
    metric: MetricName | None = Field(
        None,
        description="what the ladder compares; default: positive_accuracy (match or not) where the task names a "
        "positive label, else accuracy",
    )
    weighted: bool = Field(True, description="count a row as often as its weight says that it occurs")
    consistency_rows: int = Field(
        200,
        ge=0,
        description="test rows that each student is asked about again with a typo, in capitals, with its words or the "
        "listing's parts in another order, a quarter of them each; 0 for none",
    )


class ReportConfig(BaseModel):
    """What the reports show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    examples: int = Field(200, ge=0, le=10_000, description="rows that the example tables hold, most telling first")
    text_length: int = Field(400, ge=40, description="characters of a cell before it is cut")
