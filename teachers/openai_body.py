"""Parts of bodies that the lanes of an OpenAI-compatible server share: settings, messages, images, counts of tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from distill.labeling.prompts.image import is_address, read_image
from distill.labeling.teacher import Prompt
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.prices import Usage

_BOUNDS = ("minimum", "maximum", "minItems", "maxItems", "maxLength")
# Of the string keywords, OpenAI's strict mode takes pattern and format alone.
_UNKNOWN_TO_OPENAI = ("maxLength",)
_OPENAI_HOSTS = ("api.openai.com", ".openai.azure.com", ".services.ai.azure.com")
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encoded(value: Any) -> bytes:
    """A value as JSON, as short as it can be; lone surrogates become question marks."""
    return _ENCODE(value).encode("utf-8", "replace")


def sampling(config: OpenAITeacherConfig, *, items: int = 1) -> dict[str, Any]:
    """Model, length (so many times as much for a request about several items) and temperature."""
    settings: dict[str, Any] = {"model": config.model, "max_tokens": config.token_limit * items}
    if config.temperature is not None:
        settings["temperature"] = config.temperature
    return settings


def with_extra(settings: Mapping[str, Any], config: OpenAITeacherConfig) -> dict[str, Any]:
    """Settings with the recipe's ``extra_body`` over them; null takes a field out."""
    merged = {**settings, **config.extra_body}
    return {field: value for field, value in merged.items() if value is not None}


def constraint(structured: str, schema: Mapping[str, Any], *, endpoint: str = "") -> dict[str, Any]:
    """The fields that hold a server to a schema, in one of the dialects.

    ``json_schema``: OpenAI's ``response_format``, strict. ``json_schema_unbounded``: the same without the keywords that
    not every strict mode knows (Azure's, of older models). ``structured_outputs``: vLLM's own field. ``guided_json``:
    vLLM's before 0.12; later ones ignore it without a word. ``json_object``: any JSON object.

    Args:
        structured: The dialect; any other word holds the server to nothing.
        schema: JSON schema of the answer.
        endpoint: The server's address, which tells what its strict mode does not know.
    """
    if structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    if structured in ("json_schema", "json_schema_unbounded"):
        without = _BOUNDS if structured == "json_schema_unbounded" else _unknown_bounds(endpoint)
        held_to = _unbounded(schema, without)
        named = {"name": "answer", "strict": True, "schema": held_to}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    if structured == "structured_outputs":
        return {"structured_outputs": {"json": schema}}
    return {"guided_json": schema} if structured == "guided_json" else {}


def _unknown_bounds(endpoint: str) -> tuple[str, ...]:
    """Keywords that a service's strict mode is known to refuse."""
    host = urlsplit(endpoint).hostname or ""
    return _UNKNOWN_TO_OPENAI if host.endswith(_OPENAI_HOSTS) else ()


def _unbounded(schema: Any, without: tuple[str, ...]) -> Any:
    if not without:
        return schema
    if isinstance(schema, list):
        return [_unbounded(item, without) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A label may be called like a keyword; a bound is one only where it has a number.
    return {
        name: _unbounded(value, without)
        for name, value in schema.items()
        if name not in without or not isinstance(value, int | float)
    }


def image_urls(prompt: Prompt) -> list[str]:
    """Addresses of the row's images; a file's is its content, so that the key changes with the file.

    Raises:
        DataError: One cannot be read.
    """
    return [reference if is_address(reference) else read_image(reference).data_url for reference in prompt.images]


def user_content(prompt: Prompt) -> bytes:
    """The user's message as JSON: the text; with images, parts of which the text is the first."""
    if not prompt.images:
        return encoded(prompt.user)
    images = [{"type": "image_url", "image_url": {"url": url}} for url in image_urls(prompt)]
    return encoded([{"type": "text", "text": prompt.user}, *images])


def turns_of(prompt: Prompt) -> bytes:
    """Further messages of a prompt, each with a comma before it."""
    return b"".join(b',{"role":%b,"content":%b}' % (encoded(role), encoded(text)) for role, text in prompt.turns)


def usage_of(parsed: Any) -> dict[str, Any]:
    """The counts of tokens of a body; empty where it has none."""
    usage = parsed.get("usage") if isinstance(parsed, dict) else None
    return usage if isinstance(usage, dict) else {}


def tokens_read(usage: Mapping[str, Any]) -> int | None:
    """Input tokens: ``prompt_tokens``, or ``input_tokens`` as newer endpoints call them."""
    return _count(usage, "prompt_tokens", "input_tokens")


def tokens_written(usage: Mapping[str, Any]) -> int | None:
    """Output tokens, likewise."""
    return _count(usage, "completion_tokens", "output_tokens")


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int):
            return value
    return None


def token_usage(parsed: Any) -> Usage:
    """Tokens of a body, to be paid for. DeepSeek counts what its cache served under a name of its own."""
    usage = usage_of(parsed)
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else None
    if cached is None:
        cached = _count(usage, "prompt_cache_hit_tokens") or 0
    return Usage(tokens_read(usage), tokens_written(usage), cached)
