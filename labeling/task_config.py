"""The ``task`` section of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from distill.labeling.category_tree import read_categories

TaskType = Literal[
    "relevance",
    "choice",
    "category",
    "brand",
    "spelling",
    "expansion",
    "spans",
    "text",
    "query_understanding",
]
PartName = Literal["spelling", "brand", "category", "expansion"]
CHOICES: tuple[str, ...] = ("relevance", "choice", "category")
"""Types whose answer is one or several of a set of labels."""
SPANS: tuple[str, ...] = ("brand", "spans")
LISTS: tuple[str, ...] = ("expansion",)
"""Types whose answer is a ranked list of texts, whatever ``several`` says."""

RELEVANCE_LABELS = ("exact", "substitute", "complement", "irrelevant")
MOST_OPTIONS = 250
"""Categories of one question. Beyond so many, strict mode of OpenAI bounds the length of all names together."""

_NEEDS = {
    "labels": ("relevance", "choice"),
    "positive": ("relevance", "choice", "category"),
    "ordered": ("relevance", "choice"),
    "categories": ("category", "query_understanding"),
    "brands": ("brand", "query_understanding"),
    "types": ("spans",),
    "parts": ("query_understanding",),
    "several": ("choice", "category", "text", "query_understanding"),
    "most": ("choice", "category", "brand", "spans", "expansion", "text", "query_understanding"),
    "of": ("brand", "spans", "spelling", "expansion", "text", "query_understanding"),
    "most_options": ("category", "query_understanding"),
}
"""Which types take which key; a key that says nothing to a type is an error, not ignored."""


class TaskConfig(BaseModel):
    """The ``task`` section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: TaskType = Field(
        "relevance",
        description="relevance: an ordered choice with a positive label; choice: any closed set; category: paths "
        "`A > B > C`, several of which may be right; brand: names in a query, linked to a list where there is one; "
        "spelling: the corrected query; expansion: a ranked list of rewrites; spans and text: the same for anything "
        "else; query_understanding: several of spelling, brand, category and expansion in one request",
    )
    labels: tuple[str, ...] = Field(
        RELEVANCE_LABELS, description="the closed set, from best to worst where it is ordered"
    )
    positive: str | None = Field(
        None, description="the label that counts as a match; relevance takes the first where none is given"
    )
    ordered: bool | None = Field(None, description="are the labels grades? true for relevance")
    inputs: tuple[str, ...] = Field(min_length=1, description="columns that judges and students see, in order")
    images: tuple[str, ...] = Field(
        (), description="columns with the address or path of an image, for judges that see; empty cells have none"
    )
    evidence: tuple[str, ...] = Field(
        (),
        description="columns that judges see in a block of their own, as hints that may be wrong: titles, brands and "
        "categories that a search found near the query; students do not see them",
    )
    guideline: Path | None = Field(None, description="Markdown with numbered clauses")
    instructions: str | None = Field(None, description="one paragraph that replaces the built-in instruction")
    categories: Path | tuple[str, ...] | None = Field(
        None, description="the labels of a category task: a file with one a line, `A > B > C`, or a list"
    )
    brands: Path | None = Field(
        None,
        description="brands to link names to: a text file, `Name | alias | alias` a line, or JSONL with brand and "
        "aliases",
    )
    types: tuple[str, ...] = Field((), description="what kinds of spans there are, such as [brand, model, color]")
    parts: tuple[PartName, ...] = Field(
        ("spelling", "brand", "category", "expansion"),
        min_length=1,
        description="what a query_understanding task asks, in the order in which it is to be written",
    )
    several: bool | None = Field(
        None,
        description="may several labels be right (choice, category), or several texts, the best first (text)? true for "
        "category",
    )
    most: int | None = Field(None, ge=1, le=50, description="the most labels, spans or texts of one answer; 6 or fewer")
    of: str | None = Field(None, description="the input that spans and texts are of; the first one by default")
    most_options: int = Field(
        MOST_OPTIONS, ge=2, description="more categories than this are asked level by level, `A`, then `A > B`"
    )

    @model_validator(mode="before")
    @classmethod
    def _categories_are_labels(cls, data: Any) -> Any:
        """Categories become labels here, so that everything that asks for the label set finds it."""
        if not isinstance(data, Mapping):
            return data
        kind, found = data.get("type", "relevance"), dict(data)
        if kind in CHOICES and kind != "category":
            return data
        if found.get("labels") and kind != "category":
            raise ValueError(f"labels say nothing to a task of type {kind}; take them out")
        found["labels"] = ()
        if kind == "category":
            given = found.get("categories")
            if given is None:
                raise ValueError("a category task needs categories: a file with one a line, `A > B > C`, or a list")
            found["labels"] = read_categories(Path(given) if isinstance(given, str | Path) else list(map(str, given)))
        return found

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
        if self.type in CHOICES and len(self.labels) < 2:
            raise ValueError(f"labels: need at least two, got {list(self.labels)}")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels repeat: {list(self.labels)}; name each once")
        if self.positive is not None and self.positive not in self.labels:
            raise ValueError(f"positive {self.positive!r} is not among the labels {list(self.labels)}")
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"inputs repeat: {list(self.inputs)}; name each once")
        for name in ("images", "evidence"):
            if taken := set(getattr(self, name)) & set(self.inputs):
                raise ValueError(f"{name}: {sorted(taken)} are inputs too; a column is one or the other")
        return self

    @model_validator(mode="after")
    def _keys_fit_the_type(self) -> TaskConfig:
        for key, types in _NEEDS.items():
            value = getattr(self, key)
            # A resolved recipe writes every default down, and the labels that categories became.
            given = value not in (None, (), False, type(self).model_fields[key].default)
            if given and self.type not in types and not (key == "labels" and self.type == "category"):
                raise ValueError(f"{key} says nothing to a task of type {self.type}; it is for {', '.join(types)}")
        if self.type == "spans" and not self.types:
            raise ValueError("a spans task needs types, what its spans may be, such as [brand, model]")
        if len(set(self.types)) < len(self.types) or len(set(self.parts)) < len(self.parts):
            raise ValueError("types and parts: name each once")
        if self.of is not None and self.of not in self.inputs:
            raise ValueError(f"of: got {self.of!r}, which is not among the inputs {list(self.inputs)}")
        if self.several and (self.ordered or self.positive):
            raise ValueError("several labels may be right, so they are no grades and none is positive; choose one")
        self._check_parts()
        return self

    def _check_parts(self) -> None:
        if self.type != "query_understanding":
            return
        if self.categories is None and "category" in self.parts:
            raise ValueError("the part category needs categories; give them, or name the parts without it")
        if self.categories is not None:
            found = read_categories(self.categories)
            if "category" in self.parts and len(found) > self.most_options:
                raise ValueError(
                    f"there are {len(found):,} categories, and one request can ask for no more than most_options "
                    f"{self.most_options}; ask category in a recipe of its own, level by level, and name the other "
                    "parts here"
                )

    @property
    def closed(self) -> bool:
        """Whether the answer is exactly one of a set: what decision and logprob lanes, and classifiers, can give."""
        return self.type in ("relevance", "choice", "category") and not self.allows_several

    @property
    def allows_several(self) -> bool:
        """Whether an answer may have several labels, spans or texts."""
        return self.type == "category" if self.several is None else self.several
