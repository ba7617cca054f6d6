"""Parts of bodies that the lanes of an OpenAI-compatible server share: settings, messages, images, counts of tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distill.labeling.image import is_address, read_image
from distill.labeling.teacher import Prompt
from distill.teachers.config import OpenAITeacherConfig, PriceConfig

_BOUNDS = ("minimum", "maximum", "minItems", "maxItems")
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


def constraint(structured: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that hold a server to a schema, in one of the dialects.

    ``json_schema``: OpenAI's ``response_format``, strict. ``json_schema_unbounded``: the same without the keywords that
    not every strict mode knows (Azure's, of older models). ``structured_outputs``: vLLM's own field. ``guided_json``:
    vLLM's before 0.12; later ones ignore it without a word. ``json_object``: any JSON object.
    """
    if structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    if structured in ("json_schema", "json_schema_unbounded"):
        held_to = schema if structured == "json_schema" else _unbounded(schema)
        named = {"name": "answer", "strict": True, "schema": held_to}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    if structured == "structured_outputs":
        return {"structured_outputs": {"json": schema}}
    return {"guided_json": schema} if structured == "guided_json" else {}


def _unbounded(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_unbounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A label may be called like a keyword; a bound is one only where it has a number.
    return {
        name: _unbounded(value)
        for name, value in schema.items()
        if name not in _BOUNDS or not isinstance(value, int | float)
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


def cost_usd(usage: Mapping[str, Any], price: PriceConfig | None) -> float | None:
    """Tokens by their prices; None where a price or a count is not known."""
    if price is None:
        return None
    fresh, written = tokens_read(usage), tokens_written(usage)
    if fresh is None or written is None:
        return None
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    cached = (_count(details, "cached_tokens") or 0) if isinstance(details, dict) else 0
    cached_price = price.cached_input_usd_per_mtok
    if cached_price is None:
        cached_price = price.input_usd_per_mtok
    cost = (fresh - cached) * price.input_usd_per_mtok + cached * cached_price + written * price.output_usd_per_mtok
    return cost / 1e6
