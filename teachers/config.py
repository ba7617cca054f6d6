"""The ``teachers`` section of a recipe: one model a type. Imports nothing heavy, since ``distill --help`` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from distill.labeling.quota_config import QuotaConfig
from distill.labeling.teacher import AnswerFormat, ProbsAsked

# Errors leave the input out: it may be a secret.
_CONFIG = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

_RESERVED_BODY = ("messages", "model", "stream", "n")

_MAX_TOKENS = 512
_MAX_TOKENS_WITH_TRACES = 1024


class PriceConfig(BaseModel):
    """What tokens cost, in US dollars a million tokens."""

    model_config = _CONFIG

    input_usd_per_mtok: float = Field(ge=0, description="a million input tokens, in US dollars")
    output_usd_per_mtok: float = Field(ge=0, description="a million output tokens, thinking included, in US dollars")
    cached_input_usd_per_mtok: float | None = Field(
        None,
        ge=0,
        description="a million input tokens served from the provider's prefix cache; by default as any input",
    )


class OpenAITeacherConfig(BaseModel):
    """A model behind a server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, hosted ones."""

    model_config = _CONFIG

    type: Literal["openai"] = Field("openai", description="a server that speaks OpenAI's chat completions")
    base_url: str | tuple[str, ...] = Field(
        description="address up to /chat/completions, such as http://localhost:8000/v1; or a list of servers of one "
        "model, over which requests are balanced"
    )
    endpoint: str | None = Field(
        None,
        min_length=1,
        description="who answers, as the ledger knows it; by default the first address. Servers may be added, and the "
        "first one replaced if endpoint then names its old address, without paying for any answer again",
    )
    model: str = Field(min_length=1, description="model name as the server lists it under /models")
    family: str = Field(min_length=1, description="models that share ancestry share a family: they err together")
    api_key: SecretStr | None = Field(None, description="key, from the environment: ${NAME}; none for a local server")
    traces: bool = Field(False, description="ask for the reasoning before the label")
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
    timeout_s: float = Field(60.0, gt=0, description="seconds to wait for a whole answer")
    structured: Literal["json_schema", "json_schema_unbounded", "json_object", "none"] = Field(
        "json_schema",
        description="how the server is held to the format; the others are for servers that know less: a schema without "
        "minimum, maximum and maxItems, any JSON object, nothing but the prompt",
    )
    max_concurrency: int | None = Field(
        None, ge=1, description="the most requests in flight; null lets the engine find out"
    )
    price: PriceConfig | None = Field(None, description="what tokens cost; without it the cost is not known")
    budget_usd: float | None = Field(None, ge=0, description="what a run may spend on it, within labeling.budget_usd")
    quota: QuotaConfig | None = Field(
        None, description="requests, tokens and dollars that it may use a minute and in all, within labeling.quota"
    )
    headers: dict[str, SecretStr] = Field(
        default_factory=dict, description="further HTTP headers, kept out of the ledger, logs and manifest"
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="further fields of the request, which win over ours; null takes a field out"
    )

    @property
    def base_urls(self) -> tuple[str, ...]:
        """``base_url`` as a tuple, also where it is one address."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url

    @property
    def answer(self) -> AnswerFormat:
        """What it is asked to write besides the label."""
        return AnswerFormat(trace=self.traces, clauses=self.clauses, probs=self.probs)

    @property
    def token_limit(self) -> int:
        """``max_tokens``, or its default."""
        return self.max_tokens or (_MAX_TOKENS_WITH_TRACES if self.traces else _MAX_TOKENS)

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, str):
            return _address(value)
        addresses = tuple(_address(item) for item in value)
        if not addresses or len(set(addresses)) < len(addresses):
            raise ValueError("is an empty list, or names a server twice; give each server once")
        return addresses

    @field_validator("api_key", mode="after")
    @classmethod
    def _is_one_word(cls, value: SecretStr | None) -> SecretStr | None:
        """A key read from a file ends in a line break, which no HTTP header may hold."""
        key = value.get_secret_value().strip() if value else ""
        if any(not 32 < ord(character) < 127 for character in key):
            raise ValueError("holds a space or a character that no key has; check the environment variable")
        return SecretStr(key) if key else None

    @field_validator("headers")
    @classmethod
    def _fit_in_a_header(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            if not name.isascii() or not name.isprintable() or set(name) & set(" :") or not name:
                raise ValueError(f"header name {name!r} is not allowed")
            if any(character in secret.get_secret_value() for character in "\r\n\0"):
                raise ValueError(f"header {name}: its value holds a line break")
        return value

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_question(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in _RESERVED_BODY if name in value]:
            raise ValueError(f"may not set {', '.join(taken)}")
        return value

    @model_validator(mode="after")
    def _dollars_need_a_price(self) -> OpenAITeacherConfig:
        limited = self.budget_usd is not None or (self.quota is not None and self.quota.usd_per_minute is not None)
        if limited and self.price is None:
            raise ValueError("budget_usd and quota.usd_per_minute see nothing without a price; give price")
        return self


class RecordedColumns(BaseModel):
    """Which columns of an already parsed table hold the parts of an answer."""

    model_config = _CONFIG

    label: str = Field(description="column of the label")
    confidence: str | None = Field(None, description="column of the probability of that label, from 0 to 1")
    probs: str | dict[str, str] | None = Field(
        None,
        description="column of the distribution (a list, a struct or JSON), or a column per label: {exact: p_exact}",
    )
    trace: str | None = Field(None, description="column of the reasoning")
    clauses: str | None = Field(None, description="column of the clauses cited (a list, or text such as 'E1, E2')")


class RecordedTeacherConfig(BaseModel):
    """Replies that were recorded before: raw texts of a model, or a table of parsed answers."""

    model_config = _CONFIG

    type: Literal["recorded"] = Field("recorded", description="replies that were recorded before")
    path: Path = Field(description="jsonl, csv, tsv or parquet file with one reply a row")
    family: str = Field(min_length=1, description="models that share ancestry share a family: they err together")
    id: tuple[str, ...] = Field(("row_id",), min_length=1, description="column of the row's id, or several")
    reply: str = Field("reply", description="column of what the model wrote; not read where columns is given")
    columns: RecordedColumns | None = Field(None, description="columns of a table that is already parsed")
    label_map: dict[str, str] = Field(
        default_factory=dict, description="the table's labels in the task's words, such as {E: exact}; needs columns"
    )

    @property
    def answer(self) -> AnswerFormat:
        """What the replies are taken to hold. A recorded reply does not depend on what is asked."""
        return AnswerFormat(trace=True, clauses=True, probs="none")

    @field_validator("id", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("label_map", mode="before")
    @classmethod
    def _keys_are_text(cls, value: object) -> object:
        """YAML reads the labels 1, 2, 3 as numbers."""
        if not isinstance(value, dict):
            return value
        return {_as_text(key): _as_text(label) for key, label in value.items()}

    @model_validator(mode="after")
    def _map_needs_columns(self) -> RecordedTeacherConfig:
        if self.label_map and self.columns is None:
            raise ValueError("label_map is for parsed tables; name the label's column under columns: {label: …}")
        return self


def _address(value: str) -> str:
    try:
        parts = urlsplit(value.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be an address such as http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds credentials; give them as api_key or headers, from the environment: ${NAME}")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError("ends in /chat/completions; leave that off, it is added")
    return value.strip()


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


TeacherConfig = Annotated[OpenAITeacherConfig | RecordedTeacherConfig, Field(discriminator="type")]
"""One teacher of a recipe; ``type`` says which."""
