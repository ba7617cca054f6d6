"""The ``data.catalogue`` section of a recipe: products that stand near a query, as evidence, tools and judgments."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

EVIDENCE_COLUMNS = ("near_titles", "near_brands", "near_categories")
"""Columns of ``rows.parquet`` that a catalogue gives; ``task.evidence`` names those that judges see."""

Fusion = Literal["scores", "ranks"]
"""How lists found by a query and by its expansions become one; see
:func:`distill.eval.queries.expansion_metrics.expanded_ranking`."""

SHRINKAGE = 2.0
"""Clicks at which half of what they say is believed."""

LEAST_SIMILARITY = 0.1
"""Of queries that lead to the same products, as a cosine."""


class JudgmentsConfig(BaseModel):
    """Products that people, or the author of the data, judged for queries: what expansions are measured by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: str = Field(description="a file, folder or glob as data.rows: a line a query and product")
    query: str = Field("query", description="column of the query, as the rows have it")
    product: str = Field("product_id", description="column of the product's id, as the catalogue has it")
    label: str = Field("label", description="column of the judgment; lines without one are left out")
    gains: dict[str, float] = Field(
        {"exact": 1.0, "substitute": 0.1, "complement": 0.01, "irrelevant": 0.0},
        min_length=1,
        description="gain of each label in nDCG, 0 for irrelevant; products with the greatest gain count for recall",
    )
    fusion: Fusion = Field(
        "scores",
        description="how what a query finds and what its expansions find become one list: by BM25 scores, each list's "
        "best at 1, or by ranks (reciprocal rank fusion); all expansions together weigh half of the query",
    )

    @field_validator("gains", mode="before")
    @classmethod
    def _labels_are_text(cls, value: object) -> object:
        return {str(key): item for key, item in value.items()} if isinstance(value, dict) else value

    @field_validator("gains")
    @classmethod
    def _some_gain(cls, value: dict[str, float]) -> dict[str, float]:
        if min(value.values()) < 0 or max(value.values()) <= 0:
            raise ValueError(f"gains are at least 0, and one is above, got {value}")
        return value


class ClicksConfig(BaseModel):
    """A log of clicks or orders: which products shoppers took after which queries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: str = Field(description="a file, folder or glob as data.rows: a line a query and product")
    query: str = Field("query", description="column of the query; case and spacing do not matter")
    product: str = Field("product_id", description="column of the product's id, as the catalogue has it")
    clicks: str | None = Field(
        None, description="column of how many clicks a line stands for; each line is one where not given"
    )


class CatalogueConfig(BaseModel):
    """Products that are searched by BM25 (``pip install 'distill[retrieval]'``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: str = Field(description="a file, folder or glob as data.rows: a line a product")
    id: str | None = Field(None, description="column of the product's id; needed where products are judged")
    title: str = Field("title", description="column of the title")
    brand: str | None = Field("brand", description="column of the brand; null where there is none")
    category: str | None = Field(
        "category", description="column of the category, a path `A > B > C`; null where there is none"
    )
    text: tuple[str, ...] = Field((), description="further columns to index, such as [color, bullet_points]")
    neighbours: int = Field(
        10, ge=1, le=1000, description="products found for a query, over which brands and categories are counted"
    )
    titles: int = Field(5, ge=0, le=100, description="titles of them that near_titles shows")
    judgments: JudgmentsConfig | None = Field(
        None, description="products judged for queries: expansions are then measured by what they retrieve"
    )
    clicks: ClicksConfig | None = Field(
        None, description="what shoppers clicked: read by the query tools co_clicks, clicked_brands, clicked_categories"
    )

    @property
    def evidence(self) -> tuple[str, ...]:
        """The columns that it gives."""
        known = {"near_titles": self.title, "near_brands": self.brand, "near_categories": self.category}
        return tuple(name for name in EVIDENCE_COLUMNS if known[name] is not None)
