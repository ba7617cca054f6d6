"""What else than votes went into merged labels, for the run report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class GoldUsed(BaseModel):
    """People's labels that calibrated the merged ones."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rows: int
    groups: int
    splits: list[str]
    used: bool = Field(description="False where there were too few")
    confidence_before: float | None = None
    confidence_after: float | None = None


class StudentVoted(BaseModel):
    """A student that voted too."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    folds: int
    learned: int
    changed: int = Field(description="labels that are others than the votes alone gave")


def merged_with(merging: Mapping[str, Any], kind: type[BaseModel], name: str) -> Any:
    """A part of the stage's facts as a model; None where it is not there."""
    given = merging.get(name)
    return None if given is None else kind.model_validate(given)


def merging_said(gold: GoldUsed | None, student: StudentVoted | None) -> list[str]:
    """Sentences on gold and student."""
    lines = []
    if student is not None:
        said = f"A student voted too ({student.model}), each row predicted from the other queries’ rows in "
        said += f"{student.folds} parts; it learned from {student.learned:,} labels merged without it and changed "
        lines.append(said + f"{student.changed:,} of the labels.")
    if gold is not None and gold.used:
        said = f"How sure they are was calibrated by {gold.rows:,} gold rows of {gold.groups:,} groups (split "
        said += f"{' and '.join(gold.splits)})"
        if gold.confidence_before is not None and gold.confidence_after is not None:
            said += f": {100 * gold.confidence_before:.0f}% on average before, {100 * gold.confidence_after:.0f}% now"
        lines.append(
            said + ". The labels themselves stay as they were, and a student that learns from them learns a "
            "little from people."
        )
    elif gold is not None:
        lines.append(f"Gold was to calibrate them, and {gold.rows:,} rows are too few for it.")
    return lines
