"""A task: what is asked of a row, and what an answer may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from distill.labeling.guideline import Guideline

OutputKind = Literal["choice"]
"""What an answer is: ``choice`` is one of a closed set."""

_RELEVANCE_LABELS = ("exact", "substitute", "complement", "irrelevant")


class TaskConfig(BaseModel):
    """The ``task`` section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["relevance", "choice"] = Field(
        "relevance", description="relevance: an ordered choice with a positive label; choice: any closed set"
    )
    labels: tuple[str, ...] = Field(
        _RELEVANCE_LABELS, min_length=2, description="the closed set, from best to worst where it is ordered"
    )
    positive: str | None = Field(
        None, description="the label that counts as a match; relevance takes the first where none is given"
    )
    ordered: bool | None = Field(None, description="are the labels grades? true for relevance")
    inputs: tuple[str, ...] = Field(min_length=1, description="columns that judges and students see, in order")
    images: tuple[str, ...] = Field(
        (), description="columns with the address or path of an image, for judges that see; empty cells have none"
    )
    guideline: Path | None = Field(None, description="Markdown with numbered clauses")
    instructions: str | None = Field(None, description="one paragraph that replaces the built-in instruction")

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_text(cls, value: object) -> object:
        """Grades such as 1, 2, 3 are written as numbers in YAML; a label is always text."""
        return [str(item) if isinstance(item, int) else item for item in value] if isinstance(value, list) else value

    @field_validator("positive", mode="before")
    @classmethod
    def _positive_is_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _labels_agree(self) -> TaskConfig:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels repeat: {list(self.labels)}; name each once")
        if self.positive is not None and self.positive not in self.labels:
            raise ValueError(f"positive {self.positive!r} is not among the labels {list(self.labels)}")
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"inputs repeat: {list(self.inputs)}; name each once")
        if taken := set(self.images) & set(self.inputs):
            raise ValueError(f"images: {sorted(taken)} are inputs too; a column is read or looked at")
        return self


@dataclass(frozen=True)
class Task:
    """What is asked of a row.

    Attributes:
        labels: The closed set. Distributions everywhere are lists in this order. Ordered from best to worst
            where ``ordered``.
        inputs: Input columns, in the order in which judges and students see them; the first is the query.
        positive: The label that counts as a match (exact-match accuracy, AUC); None where there is none.
        ordered: Whether labels are grades, so that a near miss is not a far one.
        guideline: What judges are told; None for a bare question.
        instructions: Paragraph that opens the prompt; None for the built-in one.
        images: Columns with the address or path of an image of the row.
    """

    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    positive: str | None = None
    ordered: bool = False
    guideline: Guideline | None = None
    instructions: str | None = None
    kind: OutputKind = field(default="choice")
    images: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: TaskConfig) -> Task:
        """Builds the task and reads its guideline.

        Raises:
            DataError: The guideline is missing or cannot be read.
        """
        relevance = config.type == "relevance"
        return cls(
            labels=config.labels,
            inputs=config.inputs,
            positive=config.positive or (config.labels[0] if relevance else None),
            ordered=relevance if config.ordered is None else config.ordered,
            guideline=Guideline.load(config.guideline) if config.guideline else None,
            instructions=config.instructions,
            images=config.images,
        )

    @property
    def positive_index(self) -> int | None:
        """Position of the positive label in ``labels``."""
        return None if self.positive is None else self.labels.index(self.positive)
