"""What the sections of teachers that are language models have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from distill.labeling.quota_config import QuotaConfig
from distill.labeling.teacher import AnswerFormat, ProbsAsked, TraceOrder

# Errors leave the input out: it may be a secret.
SECTION = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

_MAX_TOKENS = 512
_MAX_TOKENS_WITH_TRACES = 1024


class PriceConfig(BaseModel):
    """What tokens cost, in US dollars a million tokens."""

    model_config = SECTION

    input_usd_per_mtok: float = Field(ge=0, description="a million input tokens, in US dollars")
    output_usd_per_mtok: float = Field(ge=0, description="a million output tokens, thinking included, in US dollars")
    cached_input_usd_per_mtok: float | None = Field(
        None,
        ge=0,
        description="a million input tokens served from the provider's prefix cache; by default as any input",
    )
    batch_factor: float = Field(0.5, gt=0, le=1, description="what a batch job charges of these prices")


class ModelTeacherConfig(BaseModel):
    """Settings of every teacher that is a language model, however it is reached."""

    model_config = SECTION

    model: str = Field(min_length=1, description="name of the model, as the server or provider lists it")
    family: str = Field(min_length=1, description="models that share ancestry share a family: they err together")
    traces: bool = Field(False, description="ask for the reasoning besides the label")
    trace_order: TraceOrder = Field(
        "before",
        description="before: the reasoning is written first and leads to the label; after: it explains the label given",
    )
    clauses: bool = Field(True, description="ask for the clauses of the guideline that decided")
    probs: ProbsAsked = Field(
        "none", description="ask how sure it is: confidence in its label, or a distribution over the labels"
    )
    temperature: float | None = Field(
        0.0, ge=0, le=2, description="0 for the likeliest answer; null where the server takes no temperature"
    )
    max_tokens: int | None = Field(
        None, ge=1, description=f"longest answer; {_MAX_TOKENS} by default, {_MAX_TOKENS_WITH_TRACES} with traces"
    )
    seed: int | None = Field(
        None, description="makes sampling repeatable: each row and sample gets a seed from it; null sends none"
    )
    max_concurrency: int | None = Field(
        None, ge=1, description="the most requests in flight; null lets the engine find out"
    )
    price: PriceConfig | None = Field(None, description="what tokens cost; without it the cost is not known")
    budget_usd: float | None = Field(None, ge=0, description="what a run may spend on it, within labeling.budget_usd")
    quota: QuotaConfig | None = Field(
        None, description="requests, tokens and dollars that it may use a minute and in all, within labeling.quota"
    )

    @property
    def answer(self) -> AnswerFormat:
        """What it is asked to write besides the label."""
        return AnswerFormat(trace=self.traces, clauses=self.clauses, probs=self.probs, trace_order=self.trace_order)

    @property
    def token_limit(self) -> int:
        """``max_tokens``, or its default."""
        return self.max_tokens or (_MAX_TOKENS_WITH_TRACES if self.traces else _MAX_TOKENS)

    @model_validator(mode="after")
    def _dollars_need_a_price(self) -> ModelTeacherConfig:
        limited = self.budget_usd is not None or (self.quota is not None and self.quota.usd_per_minute is not None)
        if limited and self.price is None:
            raise ValueError("budget_usd and quota.usd_per_minute see nothing without a price; give price")
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
