"""The section of a model behind a server that speaks OpenAI's chat completions."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from distill.teachers.batch_config import BATCH_DESCRIPTION, BatchConfig
from distill.teachers.lane_config import LaneConfig
from distill.teachers.model_config import one_word

_RESERVED_BODY = ("messages", "model", "stream", "n")


class OpenAITeacherConfig(LaneConfig):
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
    headers: dict[str, SecretStr] = Field(
        default_factory=dict, description="further HTTP headers, kept out of the ledger, logs and manifest"
    )
    batch: bool | BatchConfig = Field(False, description=BATCH_DESCRIPTION)
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="further fields of the request, which win over ours; null takes a field out"
    )

    @property
    def base_urls(self) -> tuple[str, ...]:
        """``base_url`` as a tuple, also where it is one address."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url

    @property
    def needs_json(self) -> bool:
        """As for any; batch jobs carry chat completions alone."""
        return super().needs_json or bool(self.batch)

    @property
    def price_host(self) -> str | None:
        """Host of the first address."""
        return urlsplit(self.base_urls[0]).hostname

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
                raise ValueError(f"got the header name {name!r}; write one ASCII word, without a space or colon")
            if any(character in secret.get_secret_value() for character in "\r\n\0"):
                raise ValueError(f"header {name}: its value holds a line break or a null character; take it out")
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
