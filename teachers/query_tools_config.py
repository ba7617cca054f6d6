"""The section of teachers that are query tools: what can be said of a query from a catalogue, without a model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, field_validator

from distill.labeling.queries.catalogue_config import LEAST_SIMILARITY, SHRINKAGE
from distill.teachers.model_config import SECTION

ToolName = Literal[
    "noisy_channel",
    "brand_dictionary",
    "category_vote",
    "title_terms",
    "plain_rewrites",
    "co_clicks",
    "clicked_brands",
    "clicked_categories",
]
TOOL_TASKS: dict[str, str] = {
    "noisy_channel": "spelling",
    "brand_dictionary": "brand",
    "category_vote": "category",
    "title_terms": "expansion",
    "plain_rewrites": "expansion",
    "co_clicks": "expansion",
    "clicked_brands": "brand",
    "clicked_categories": "category",
}
"""The type of task, or the part, that each answers."""
CLICK_TOOLS = ("co_clicks", "clicked_brands", "clicked_categories")
"""Those that read ``data.catalogue.clicks``."""


class QueryToolsTeacherConfig(BaseModel):
    """Tools that read ``data.catalogue``. Each is a teacher of its own, ``section.tool``, and a family of its own."""

    model_config = SECTION

    type: Literal["query_tools"] = Field(description="tools of the package that read data.catalogue")
    functions: tuple[ToolName, ...] = Field(
        min_length=1,
        description="noisy_channel corrects spelling, brand_dictionary finds brands, category_vote takes the "
        "categories of the products found, title_terms and plain_rewrites expand; of data.catalogue.clicks, co_clicks "
        "expands by queries that lead to the same products, clicked_brands and clicked_categories take those of the "
        "products clicked",
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
        0.2,
        gt=0,
        le=1,
        description="category_vote, clicked_categories, clicked_brands: share of the vote that a category or brand "
        "needs to be an answer",
    )
    similarity: float = Field(
        LEAST_SIMILARITY,
        gt=0,
        le=1,
        description="co_clicks: how alike the clicks of two queries are at least, as a cosine, for one to expand the "
        "other",
    )
    shrinkage: float = Field(
        SHRINKAGE,
        ge=0,
        description="co_clicks, clicked_brands, clicked_categories: clicks at which half of what they say is believed",
    )

    @field_validator("functions")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"functions repeat: {list(value)}; name each once")
        return value
