"""The section of a teacher whose replies were recorded before."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from distill.labeling.teacher import AnswerFormat
from distill.teachers.label_map import LabelMap
from distill.teachers.model_config import SECTION


class RecordedColumns(BaseModel):
    """Which columns of an already parsed table hold the parts of an answer."""

    model_config = SECTION

    label: str = Field(description="column of the label")
    confidence: str | None = Field(None, description="column of the probability of that label, from 0 to 1")
    probs: str | dict[str, str] | None = Field(
        None,
        description="column of the distribution (a list, a struct or JSON), or a column per label: {exact: p_exact}",
    )
    trace: str | None = Field(None, description="column of the reasoning")
    clauses: str | None = Field(None, description="column of the clauses cited (a list, or text such as 'E1, E2')")


class RecordedTeacherConfig(BaseModel):
    """Replies that were recorded before: raw texts of a model, or a table of parsed answers."""

    model_config = SECTION

    type: Literal["recorded"] = Field("recorded", description="replies that were recorded before")
    path: Path = Field(description="jsonl, csv, tsv or parquet file with one reply a row")
    family: str = Field(min_length=1, description="models that share ancestry share a family: they err together")
    id: tuple[str, ...] = Field(("row_id",), min_length=1, description="column of the row's id, or several")
    reply: str = Field("reply", description="column of what the model wrote; not read where columns is given")
    columns: RecordedColumns | None = Field(None, description="columns of a table that is already parsed")
    label_map: LabelMap = Field(
        default_factory=dict, description="the table's labels in the task's words, such as {E: exact}; needs columns"
    )

    @property
    def answer(self) -> AnswerFormat:
        """What the replies are taken to hold. A recorded reply does not depend on what is asked."""
        return AnswerFormat(trace=True, clauses=True, probs="none")

    @field_validator("id", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _map_needs_columns(self) -> RecordedTeacherConfig:
        if self.label_map and self.columns is None:
            raise ValueError("label_map is for parsed tables; name the label's column under columns: {label: …}")
        return self
