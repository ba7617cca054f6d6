"""What the sections of teachers that are language models have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from distill.labeling.quota_config import QuotaConfig
from distill.labeling.teacher import AnswerFormat, ProbsAsked
from distill.teachers.price_config import PriceConfig, or_nothing
from distill.teachers.prices import KnownPrice, find_price

# Errors leave the input out: it may be a secret.
SECTION = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

_MAX_TOKENS = 512
_MAX_TOKENS_WITH_TRACES = 1024
# A trace may fill the characters of its schema with a script that takes a token a character.
_MOST_TOKENS_PER_TRACE_TOKEN = 4


class ModelTeacherConfig(BaseModel):
    """Settings of every teacher that is a language model, however it is reached."""

    model_config = SECTION

    model: str = Field(min_length=1, description="name of the model, as the server or provider lists it")
    family: str = Field(min_length=1, description="models that share ancestry share a family: they err together")
    traces: bool = Field(False, description="ask for the reasoning besides the label")
    trace_order: Literal["before", "after"] = Field(
        "before",
        description="before: the reasoning is written first and leads to the label; after: it explains the label given",
    )
    trace_tokens: int = Field(
        120, ge=20, le=4000, description="how long the reasoning may be, in tokens; longer ones are cut and marked"
    )
    rationale_for: Literal["gold"] | None = Field(
        None,
        description="gold: show each row's human label and ask for the reasoning behind it, never for a label; rows of "
        "split test and without a human label are not asked",
    )
    clauses: bool | None = Field(
        None,
        description="ask for the clauses of the guideline that decided; by default where the lane can carry them; "
        "true asks for a lane that can",
    )
    probs: ProbsAsked = Field(
        "none", description="ask how sure it is: confidence in its label, or a distribution over the labels"
    )
    temperature: float | None = Field(
        0.0, ge=0, le=2, description="0 for the likeliest answer; null where the server takes no temperature"
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description=f"longest answer; {_MAX_TOKENS} by default, with traces {_MAX_TOKENS_WITH_TRACES} or more by "
        "trace_tokens",
    )
    seed: int | None = Field(
        None, description="makes sampling repeatable: each row and sample gets a seed from it; null sends none"
    )
    max_concurrency: int | None = Field(
        None, ge=1, description="the most requests in flight; null lets the engine find out"
    )
    price: PriceConfig | None = Field(
        None,
        description="what tokens cost, 0 for nothing; without it as the table of known prices says, and where that has "
        "no such model the cost is not known",
        json_schema_extra=or_nothing,
    )
    budget_usd: float | None = Field(None, ge=0, description="what a run may spend on it, within labeling.budget_usd")
    quota: QuotaConfig | None = Field(
        None, description="requests, tokens and dollars that it may use a minute and in all, within labeling.quota"
    )

    @property
    def answer(self) -> AnswerFormat:
        """What it is asked to write besides the label."""
        trace = self.traces or self.rationale_for is not None
        return AnswerFormat(
            trace=trace,
            clauses=self.clauses is not False,
            probs=self.probs,
            trace_order="given" if self.rationale_for else self.trace_order,
            trace_tokens=self.trace_tokens if trace else None,
        )

    @property
    def price_host(self) -> str | None:
        """Host whose prices hold, as the price table knows it; None where nobody sells."""
        return None

    @property
    def known_price(self) -> KnownPrice | None:
        """What tokens cost and who says so: the recipe or a price table; None where nobody does."""
        return find_price(self.model, host=self.price_host, given=self.price)

    @property
    def token_limit(self) -> int:
        """``max_tokens``, or its default."""
        if self.max_tokens is not None:
            return self.max_tokens
        if not self.answer.trace:
            return _MAX_TOKENS
        return max(_MAX_TOKENS_WITH_TRACES, _MAX_TOKENS + _MOST_TOKENS_PER_TRACE_TOKEN * self.trace_tokens)

    @model_validator(mode="after")
    def _dollars_need_a_price(self) -> ModelTeacherConfig:
        limited = self.budget_usd is not None or (self.quota is not None and self.quota.usd_per_minute is not None)
        if limited and self.known_price is None:
            raise ValueError(
                "budget_usd and quota.usd_per_minute see nothing without a price, and none is known; give price"
            )
        return self


def one_word(value: SecretStr | None) -> SecretStr | None:
    """A key without the line break that one read from a file ends in, which no HTTP header may hold.

    Raises:
        ValueError: It holds what no key has.
    """
    key = value.get_secret_value().strip() if value else ""
    if any(not 32 < ord(character) < 127 for character in key):
        raise ValueError("holds a space or a character that no key has; check the environment variable")
    return SecretStr(key) if key else None
