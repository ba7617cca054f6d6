"""The section of teachers that are rules written in the recipe itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from distill.teachers.functions_config import check_function_name
from distill.teachers.model_config import SECTION

Dimension = Literal["volume", "mass", "length", "storage", "power", "charge", "count"]
"""What a quantity measures; see :mod:`distill.teachers.quantities` for the units."""

_FLAGS = {"ignorecase": re.IGNORECASE, "multiline": re.MULTILINE, "dotall": re.DOTALL, "ascii": re.ASCII}
_SUM_TOLERANCE = 0.001


def _listed(value: object) -> object:
    """``fields: title`` is ``fields: [title]``."""
    return [value] if isinstance(value, str) else value


class _Fields(BaseModel):
    """A condition on some of the row's inputs."""

    model_config = SECTION

    fields: tuple[str, ...] = Field(min_length=1, description="inputs that it looks at, together")

    @field_validator("fields", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return _listed(value)


class RegexCondition(_Fields):
    """A regular expression is found."""

    match: Literal["regex"] = Field(description="a regular expression is found")
    pattern: str = Field(min_length=1, description="Python regular expression, searched in the NFKC form of the text")
    flags: tuple[Literal["ignorecase", "multiline", "dotall", "ascii"], ...] = Field(
        ("ignorecase",), description="flags of the expression"
    )

    @model_validator(mode="after")
    def _compiles(self) -> RegexCondition:
        try:
            self.compiled()
        except re.error as error:
            raise ValueError(f"pattern: no regular expression, {error}, got {self.pattern!r}") from None
        return self

    def compiled(self) -> re.Pattern[str]:
        """The expression with its flags."""
        flags = re.RegexFlag(0)
        for name in self.flags:
            flags |= _FLAGS[name]
        return re.compile(self.pattern, flags)


class WordsCondition(_Fields):
    """One of some words or phrases is found."""

    match: Literal["words"] = Field(description="one of some words is found")
    words: tuple[str, ...] = Field((), description="words or phrases; case, width and accents of form do not matter")
    file: Path | None = Field(None, description="text file with one a line, besides words; # starts a comment")
    boundary: Literal["auto", "word", "none"] = Field(
        "auto",
        description="word: whole words only; none: also inside words; auto: whole words, but inside words for those "
        "in Hangul, kana or Han, which are written together",
    )

    @field_validator("words", mode="before")
    @classmethod
    def _one_word_or_several(cls, value: object) -> object:
        return _listed(value)

    @model_validator(mode="after")
    def _some_words(self) -> WordsCondition:
        if not self.words and self.file is None:
            raise ValueError("words: none; give words: […] or file: words.txt")
        if any(not word.strip() for word in self.words):
            raise ValueError(f"words: got an empty one in {list(self.words)}; it would be found everywhere")
        return self


class QuantityCondition(_Fields):
    """Quantities of the query beside those of the listing: 500 ml and 0.5 L are the same."""

    match: Literal["quantity"] = Field(description="quantities of query and listing: sizes, volumes, counts")
    relation: Literal["same", "different"] = Field(
        description="same: the listing has every quantity of the query; different: of one of them it has only others. "
        "Where the query has none, or the listing none of the kind, neither holds"
    )
    query: str | None = Field(None, description="input with the query; the task's first by default")
    dimensions: tuple[Dimension, ...] = Field(
        ("volume", "mass", "length", "storage", "power", "charge", "count"),
        min_length=1,
        description="which quantities are compared",
    )
    tolerance: float = Field(0.02, ge=0, lt=1, description="relative difference that still counts as the same")


class ValueCondition(_Fields):
    """A named value (brand, color) of the query beside that of the listing."""

    match: Literal["value"] = Field(description="a named value of query and listing: brand, color")
    relation: Literal["same", "different"] = Field(
        description="same: the listing has every value that the query names; different: it names others and none of "
        "them. Where the query names none, or the listing none, neither holds"
    )
    query: str | None = Field(None, description="input with the query; the task's first by default")
    values: Literal["colors"] | dict[str, tuple[str, ...]] | tuple[str, ...] | None = Field(
        None,
        description="the values there are: a list, a mapping of each to its spellings, or colors (English and Korean); "
        "by default the listing's fields themselves are looked for in the query, which tells only `same`",
    )
    file: Path | None = Field(None, description="text file with one value a line, spellings separated by commas")

    @model_validator(mode="after")
    def _different_needs_values(self) -> ValueCondition:
        if self.relation == "different" and self.values is None and self.file is None:
            raise ValueError("relation: different needs values or file: without them the query's value is not known")
        if self.values is not None and self.file is not None:
            raise ValueError("give values or file, not both")
        return self


class OverlapCondition(_Fields):
    """The share of the query's words that the listing has."""

    match: Literal["overlap"] = Field(description="the share of the query's words that the listing has")
    query: str | None = Field(None, description="input with the query; the task's first by default")
    at_least: float | None = Field(None, ge=0, le=1, description="holds where the share is at least this")
    at_most: float | None = Field(None, ge=0, le=1, description="holds where the share is at most this")

    @model_validator(mode="after")
    def _one_bound(self) -> OverlapCondition:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is above at_most {self.at_most}: no row has both")
        return self


Condition = Annotated[
    RegexCondition | WordsCondition | QuantityCondition | ValueCondition | OverlapCondition,
    Field(discriminator="match"),
]


class Rule(BaseModel):
    """Conditions and the label that they lead to; where they do not hold the rule abstains."""

    model_config = SECTION

    when: tuple[Condition, ...] = Field(min_length=1, description="conditions, all of which have to hold")
    unless: tuple[Condition, ...] = Field((), description="conditions, none of which may hold")
    then: str | dict[str, Annotated[float, Field(ge=0)]] = Field(
        description="the label, or a probability per label where it tells less than that"
    )
    family: str | None = Field(None, min_length=1, description="rules on the same evidence share a family")

    @field_validator("when", "unless", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value

    @field_validator("then", mode="before")
    @classmethod
    def _labels_are_text(cls, value: Any) -> Any:
        """YAML reads the labels 1, 2, 3 as numbers."""
        if isinstance(value, dict):
            return {str(label): share for label, share in value.items()}
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("then", mode="after")
    @classmethod
    def _sums_to_one(cls, value: Any) -> Any:
        if isinstance(value, dict) and abs(sum(value.values()) - 1) > _SUM_TOLERANCE:
            raise ValueError(f"then: probabilities sum to {sum(value.values()):g}, got {value}; make them sum to 1")
        return value

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that it may give."""
        return (self.then,) if isinstance(self.then, str) else tuple(self.then)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All of them."""
        return (*self.when, *self.unless)


class RulesTeacherConfig(BaseModel):
    """Rules on words, expressions, quantities, values and overlap."""

    model_config = SECTION

    type: Literal["rules"] = Field(description="rules written in the recipe")
    rules: dict[str, Rule] = Field(min_length=1, description="the rules, by name")
    decide: Literal["each", "first", "vote"] = Field(
        "each",
        description="each: every rule is a teacher of its own, section.rule; first: one teacher, the first rule that "
        "holds decides; vote: one teacher, the rules that hold share the probability",
    )
    family: str | None = Field(
        None, min_length=1, description="family of the rules that name none; the section's name by default"
    )

    @field_validator("rules", mode="after")
    @classmethod
    def _names_are_usable(cls, value: dict[str, Rule]) -> dict[str, Rule]:
        for name in value:
            check_function_name(name)
        return value

    @model_validator(mode="after")
    def _families_of_their_own(self) -> RulesTeacherConfig:
        if self.decide != "each" and any(rule.family for rule in self.rules.values()):
            raise ValueError(f"decide: {self.decide} makes one teacher of all rules; name its family beside decide")
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """Word lists that the rules read."""
        found = [getattr(condition, "file", None) for rule in self.rules.values() for condition in rule.conditions]
        return tuple(dict.fromkeys(file for file in found if file is not None))
