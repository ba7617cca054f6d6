"""The ``data`` section of a recipe: where the rows come from and what their columns mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from distill.labeling.queries.catalogue_config import CatalogueConfig

Split = Literal["pool", "train", "audit", "test"]
"""What a row is used for.

``pool``: judged by teachers, and what students learn from. ``train``: rows with human labels that a student may learn
from. ``audit``: rows with human labels that measure teachers and merged labels. ``test``: students are measured on it.
"""
SPLITS: tuple[str, ...] = get_args(Split)

SHARES_WITHOUT_GOLD: dict[str, float] = {"pool": 0.7, "audit": 0.1, "test": 0.2}
"""Shares of groups where ``split`` is not given and there is no gold column."""
SHARES_WITH_GOLD: dict[str, float] = {"pool": 0.5, "train": 0.2, "audit": 0.1, "test": 0.2}
"""Shares of groups where ``split`` is not given and there is a gold column, so that people's labels can train too."""

RESERVED_COLUMNS: tuple[str, ...] = ("row_id", "group", "split", "gold", "weight")
"""Columns that every table of rows has; no input may be called so."""


class DataConfig(BaseModel):
    """The ``data`` section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: str | list[str] = Field(
        description="a file, a folder, a glob (csv, tsv, jsonl, parquet; .gz, .bz2, .xz and .zst are read too), a list "
        "of those, a folder saved by datasets, or hf://owner/set[:config][/split]"
    )
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet"] = Field(
        "auto", description="auto goes by the file's ending; for csv the separator is found among , ; tab and |"
    )
    id: str | list[str] | None = Field(
        None, description="column, or columns, that name a row; a hash of the inputs where none is given"
    )
    group: str | list[str] | None = Field(
        None, description="column, or columns, that no split may cut through; the first input (the query) by default"
    )
    gold: str | dict[str, str] | None = Field(
        None,
        description="column with people's labels; may be empty on any row. Lists are JSON or parted by |, spans "
        "JSON or BIO tags; of a task of several parts, JSON by part, or a column for each part: {spelling: corrected}",
    )
    gold_map: dict[str, str] | None = Field(
        None, description="what the gold column says: which of the task's labels, or types of spans, that is"
    )
    gold_source: Literal["human", "author"] = Field(
        "human",
        description="who gave the gold labels: human for people who judged the rows, author for whoever wrote the rows "
        "to have these labels; every quality figure names it",
    )
    decisions: list[str] = Field(
        default_factory=list,
        description="files that people saved on the review's page: what they decided is gold, before the gold column, "
        "and a decided row of split pool goes to split train",
    )
    annotations: list[str] = Field(
        default_factory=list,
        description="files that annotators filled in (csv, or what Label Studio or Argilla export), such as those of "
        "`distill label-next`: their labels are gold, before the gold column, and a labeled row of split pool goes to "
        "split train",
    )
    split: str | dict[Split, float] | None = Field(
        None,
        description="a column, or shares by hash of the group such as {pool: 0.7, audit: 0.1, test: 0.2}; by default "
        "those shares, or {pool: 0.5, train: 0.2, audit: 0.1, test: 0.2} where there is a gold column",
    )
    split_map: dict[str, Split] | None = Field(
        None, description="what the split column says: pool, train, audit or test, such as {validation: audit}"
    )
    weight: str | None = Field(None, description="column with how often the row occurs; 1 where none is given")
    columns: dict[str, str] = Field(
        default_factory=dict, description="name used here: name in the file, such as {title: product_title}"
    )
    keep: list[str] = Field(default_factory=list, description="further columns to carry along, as text")
    catalogue: CatalogueConfig | None = Field(
        None,
        description="products that are searched for what stands near each query: its columns near_titles, near_brands "
        "and near_categories can be named in task.evidence, teachers of type query_tools and checks read it, and "
        "expansions are measured on its judgments",
    )
    html: Literal["strip", "keep"] = Field("strip", description="take HTML tags and entities out of the inputs?")
    max_cell_chars: int = Field(20_000, ge=1, description="longer inputs are cut here, and counted")
    encoding: str | None = Field(None, description="of text files, such as cp949; found out where none is given")
    max_bad_fraction: float = Field(
        0.1, ge=0, le=1, description="stop where a greater share of the rows cannot be used"
    )

    @field_validator("rows", "id", "group")
    @classmethod
    def _not_empty(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value is not None and (not value or any(not name.strip() for name in as_names(value))):
            raise ValueError("is empty; name at least one, or leave the key out")
        return value

    @field_validator("gold_map", mode="before")
    @classmethod
    def _labels_are_text(cls, value: object) -> object:
        """Grades are written as numbers in YAML; both sides of the map are text."""
        return {_plain(key): _plain(item) for key, item in value.items()} if isinstance(value, dict) else value

    @field_validator("split_map", mode="before")
    @classmethod
    def _names_are_text(cls, value: object) -> object:
        return {_plain(key): item for key, item in value.items()} if isinstance(value, dict) else value

    @field_validator("split")
    @classmethod
    def _shares_sum_to_one(cls, value: str | dict[Split, float] | None) -> str | dict[Split, float] | None:
        if isinstance(value, dict):
            total = sum(value.values())
            if not value or min(value.values()) < 0 or not math.isclose(total, 1.0, abs_tol=1e-6):
                raise ValueError(f"shares must be at least 0 and sum to 1, got {value}, which sum to {total:g}")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                "".encode(value)
            except LookupError:
                raise ValueError(f"unknown encoding {value!r}; Python's names are used: utf-8, cp949, cp1252") from None
        return value

    @model_validator(mode="after")
    def _maps_have_a_column(self) -> DataConfig:
        if self.gold_map and self.gold is None:
            raise ValueError("gold_map needs gold, the column that it reads")
        if self.split_map and not isinstance(self.split, str):
            raise ValueError("split_map needs split to name a column")
        return self


def as_names(value: str | Iterable[str] | None) -> list[str]:
    """One name, several or none, as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _plain(value: object) -> object:
    """Text of a YAML scalar as a data file would write it: 4 and 4.0 are ``4``, no value is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else value
