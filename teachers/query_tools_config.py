"""The section of teachers that are query tools: what can be said of a query from a catalogue, without a model."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, Field, field_validator

from distill.teachers.model_config import SECTION

ToolName = Literal["noisy_channel", "brand_dictionary", "category_vote", "title_terms", "plain_rewrites"]
TOOLS: tuple[str, ...] = get_args(ToolName)
TOOL_TASKS: dict[str, str] = {
    "noisy_channel": "spelling",
    "brand_dictionary": "brand",
    "category_vote": "category",
    "title_terms": "expansion",
    "plain_rewrites": "expansion",
}
"""The type of task, or the part, that each answers."""


class QueryToolsTeacherConfig(BaseModel):
    """Tools that read ``data.catalogue``. Each is a teacher of its own, ``section.tool``, and a family of its own."""

    model_config = SECTION

    type: Literal["query_tools"] = Field(description="tools of the package that read data.catalogue")
    functions: tuple[ToolName, ...] = Field(
        min_length=1,
        description="noisy_channel corrects spelling, brand_dictionary finds brands, category_vote takes the "
        "categories of the products found, title_terms and plain_rewrites expand",
    )
    trust: float = Field(
        0.6,
        gt=0,
        le=1,
        description="how far they are trusted: their own confidence times this is what their votes weigh, so that "
        "beside one model that is surer they overrule nothing, and between two models that differ they decide",
    )
    margin: float = Field(
        2.0, ge=0, description="noisy_channel: log odds that a change must have over leaving the query as it is"
    )
    least: float = Field(
        0.2, gt=0, le=1, description="category_vote: share of the vote that a category needs to be an answer"
    )

    @field_validator("functions")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"functions repeat: {list(value)}; name each once")
        return value
