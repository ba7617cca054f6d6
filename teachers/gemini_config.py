"""The section of a Gemini model."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from distill.teachers.batch_config import BATCH_DESCRIPTION, BatchConfig
from distill.teachers.model_config import SECTION, ModelTeacherConfig, one_word

_RESERVED_BODY = ("model", "options", "contents", "systemInstruction", "cachedContent", "serviceTier")
_KEY_NAME = "${GEMINI_API_KEY}"
_TIMEOUT_S = 120.0
# Flex requests wait for spare capacity: minutes, a quarter of an hour at most.
_FLEX_TIMEOUT_S = 900.0
# Thoughts count against maxOutputTokens. Without room for them a model that thinks is cut off before its answer.
_ROOM_FOR_THOUGHTS = {"minimal": 1024, "low": 4096, "medium": 8192, "high": 24576}
_ROOM_FOR_UNBOUNDED_THOUGHTS = 8192


class ThinkingConfig(BaseModel):
    """How much the model thinks before it answers. Thoughts are paid for as output."""

    model_config = SECTION

    budget: int | None = Field(
        None, ge=-1, description="tokens to think with: 0 for none, -1 as many as the model sees fit (Gemini 2.5)"
    )
    level: Literal["minimal", "low", "medium", "high"] | None = Field(
        None, description="how hard to think (Gemini 3 and later, in place of budget)"
    )
    summaries: bool = Field(False, description="have the provider sum up the thoughts; kept as the answer's trace")

    @model_validator(mode="after")
    def _one_measure(self) -> ThinkingConfig:
        if self.budget is not None and self.level is not None:
            raise ValueError("give budget or level, not both: the server refuses a request with both")
        return self

    @property
    def room(self) -> int:
        """Tokens to leave for thoughts above the answer's own."""
        if self.budget is not None and self.budget >= 0:
            return self.budget
        return _ROOM_FOR_THOUGHTS[self.level] if self.level else _ROOM_FOR_UNBOUNDED_THOUGHTS


class PrefixCacheConfig(BaseModel):
    """The instruction and guideline kept at the provider, once for all rows, at the price of cached input."""

    model_config = SECTION

    ttl_s: int = Field(3600, ge=60, description="seconds for which it is kept; made anew when they are over")


class GeminiTeacherConfig(ModelTeacherConfig):
    """A Gemini model, asked through google-genai."""

    type: Literal["gemini"] = Field("gemini", description="a Gemini model, asked through google-genai")
    api_key: SecretStr = Field(
        SecretStr(_KEY_NAME),
        description="key, from the environment: ${NAME}",
        json_schema_extra={"default": _KEY_NAME},  # pydantic would show asterisks
    )
    base_url: str = Field(
        "https://generativelanguage.googleapis.com", description="address of the service, without the version"
    )
    api_version: str = Field(
        "v1beta", min_length=1, description="version of the API; decisions are only in v1beta so far"
    )
    lane: Literal["auto", "decision", "logprobs", "json"] = Field(
        "auto",
        description="decision: the endpoint that gives a probability per label and writes nothing; logprobs: the bare "
        "label and the log-probabilities of its tokens; json: an object by schema, the only one with traces and stated "
        "probabilities; auto: decision where the model has it and neither is asked for, json otherwise",
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="0 for the likeliest answer; by default the model's own, best left to Gemini 3"
    )
    thinking: ThinkingConfig | None = Field(None, description="how much it thinks; by default as the model does")
    tier: Literal["standard", "flex"] = Field(
        "standard", description="flex costs half and may take minutes, or be turned away when the service is busy"
    )
    cache: PrefixCacheConfig | None = Field(
        None, description="keep instruction and guideline at the provider; not used for decisions and batches"
    )
    batch: bool | BatchConfig = Field(False, description=f"{BATCH_DESCRIPTION}; needs the json lane")
    timeout_s: float | None = Field(
        None, gt=0, description=f"seconds to wait for a whole answer; {_TIMEOUT_S:g}, or {_FLEX_TIMEOUT_S:g} with flex"
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="further fields of generateContent's body, which win over ours; those of generationConfig are "
        "added to ours, and null takes a field out",
    )

    @property
    def wait_s(self) -> float:
        """``timeout_s``, or its default."""
        return self.timeout_s or (_FLEX_TIMEOUT_S if self.tier == "flex" else _TIMEOUT_S)

    @property
    def output_limit(self) -> int:
        """Tokens of the answer and of the thoughts before it."""
        thinking = self.thinking or ThinkingConfig(budget=None, level=None, summaries=False)
        return self.token_limit + thinking.room

    @field_validator("api_key", mode="after")
    @classmethod
    def _is_one_word(cls, value: SecretStr) -> SecretStr:
        key = one_word(value)
        if key is None:
            raise ValueError("is empty; set the environment variable that it names")
        return key

    @property
    def price_host(self) -> str | None:
        """Host of the service."""
        return urlsplit(self.base_url).hostname

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value.strip())
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username is not None or parts.query:
            raise ValueError(
                "must be an address such as https://generativelanguage.googleapis.com, without a key in it"
            )
        return value.strip().rstrip("/")

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_question(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in _RESERVED_BODY if name in value]:
            raise ValueError(f"may not set {', '.join(taken)}")
        return value

    @model_validator(mode="after")
    def _lane_can_do_it(self) -> GeminiTeacherConfig:
        spoken = self.traces or self.rationale_for or self.probs != "none"
        if spoken and self.lane in ("decision", "logprobs"):
            raise ValueError(
                f"lane {self.lane} writes no traces and states no probs; set lane: json, or leave them out"
            )
        if self.batch and self.lane in ("decision", "logprobs"):
            raise ValueError("batch jobs need lane: json")
        return self
