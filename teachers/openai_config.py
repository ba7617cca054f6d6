"""The section of a model behind a server that speaks OpenAI's chat completions."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from distill.teachers.model_config import ModelTeacherConfig, one_word

_RESERVED_BODY = ("messages", "model", "stream", "n")

Structured = Literal[
    "auto", "json_schema", "json_schema_unbounded", "structured_outputs", "guided_json", "json_object", "none"
]


class OpenAITeacherConfig(ModelTeacherConfig):
    """A model behind a server that speaks OpenAI's protocols: vLLM, SGLang, llama.cpp, hosted ones."""

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
    api_key: SecretStr | None = Field(None, description="key, from the environment: ${NAME}; none for a local server")
    timeout_s: float = Field(60.0, gt=0, description="seconds to wait for a whole answer")
    lane: Literal["auto", "decision", "logprobs", "json"] = Field(
        "auto",
        description="how a closed question is answered. decision: a decision endpoint gives the probabilities, nothing "
        "is written; logprobs: the probabilities of the labels as the answer, from the model itself; json: a written "
        "object. auto takes the first that the server has; traces, probs, clauses: true and samples_per_request only "
        "json can carry, so that asking for one of them means json",
    )
    probe: bool = Field(
        True,
        description="before the first row, ask the server a few words to find out which lanes it has and whether it "
        "keeps to the schema; false takes lane as given, auto as json",
    )
    structured: Structured = Field(
        "json_schema",
        description="how the server is held to the format; auto takes the first that it keeps to. For servers that "
        "know less: a schema without minimum, maximum and maxItems, any JSON object, nothing but the prompt; for vLLM "
        "also its own fields, structured_outputs, and guided_json before 0.12",
    )
    samples_per_request: int = Field(
        1, ge=1, le=128, description="answers drawn in one request (n), whose shares are the distribution"
    )
    most_options: int | None = Field(
        None,
        ge=2,
        description="more labels than this are asked level by level; by default as many as the lane's endpoint takes",
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
    def needs_json(self) -> bool:
        """Whether something is asked for that only a written object carries."""
        return bool(self.traces or self.clauses or self.probs != "none" or self.samples_per_request > 1)

    @property
    def lanes(self) -> tuple[str, ...]:
        """Lanes that will do, the best first."""
        if self.lane != "auto":
            return (self.lane,)
        return ("json",) if self.needs_json else ("decision", "logprobs", "json")

    @model_validator(mode="after")
    def _lane_can_carry_it(self) -> OpenAITeacherConfig:
        if self.lane in ("decision", "logprobs") and self.needs_json:
            raise ValueError(
                f"lane {self.lane} gives probabilities and nothing written; leave traces, probs, clauses: true and "
                "samples_per_request out, or use lane: json"
            )
        if self.samples_per_request > 1 and self.temperature == 0:
            raise ValueError("samples_per_request: samples at temperature 0 are all alike; give temperature")
        if self.structured == "auto" and not self.probe:
            raise ValueError("structured: auto finds out by asking; leave probe at true, or name what the server knows")
        return self

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
        return one_word(value)

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
