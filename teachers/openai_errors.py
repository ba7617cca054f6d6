"""What a chat completions server means by a status other than 200."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from distill.labeling.errors import (
    DailyQuotaError,
    OverloadedError,
    RateLimitError,
    RequestRejectedError,
    SchemaRejectedError,
    SpendLimitError,
    TeacherError,
    TeacherTimeoutError,
    UnknownModelError,
    WrongKeyError,
)
from distill.teachers.config import OpenAITeacherConfig

_MAX_QUOTED_CHARS = 300
_MAX_SEARCHED_CHARS = 4000
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
# What services write about quotas of a day or a month, and nothing else: OpenAI and Groq "per day (RPD)", Gemini
# "…PerDay", OpenRouter "free-models-per-day".
_DAILY = re.compile(r"\bper[ -]?(?:day|month)|PerDay|\b[RT]PD\b|\bdaily\b|\bmonthly\b", re.IGNORECASE)
# No other words: "billing" also stands in the advice that comes with a quota a minute.
_SPENT = ("insufficient_quota", "billing_hard_limit", "billing_not_active", "insufficient_balance", "credit balance")
_SCHEMA_WORDS = ("response_format", "schema", "grammar", "maxitems", "guided_json", "structured output")
_TOO_LONG = ("context length", "too long", "maximum context", "max_model_len")
_KNOWS_LESS = {"json_schema": "json_schema_unbounded", "json_schema_unbounded": "json_object", "json_object": "none"}
_KNOWS_LESS |= dict.fromkeys(("auto", "structured_outputs", "guided_json"), "json_schema")
_LEFT_AND_RESET = tuple(
    (f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}") for kind in ("requests", "tokens")
)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Refusal:
    """A response whose status is not 200.

    Attributes:
        status: HTTP status.
        headers: Case-insensitive mapping of the response's headers.
        body: Its body as text.
        parsed: The body as JSON, None where it is none.
    """

    status: int
    headers: Mapping[str, str]
    body: str
    parsed: Any

    @property
    def told(self) -> str:
        """Status and the server's own words, on one line."""
        return f"{self.status}: {told(self.body, self.parsed)}"

    @property
    def code(self) -> str:
        """The server's error code or type, empty where it gives none."""
        error = error_of(self.parsed)
        return f"{error.get('code') or ''} {error.get('type') or ''}"


def error_of(parsed: Any) -> dict[str, Any]:
    """The error object of a body: ``{"error": {…}}``, or vLLM's older form with its fields at the top."""
    if not isinstance(parsed, dict):
        return {}
    error = parsed.get("error", parsed)
    return error if isinstance(error, dict) else {"message": error}


def is_filtered(parsed: Any) -> bool:
    """Whether the provider's content filter refused the request (Azure: 400 with a code; OpenRouter: 403)."""
    error = error_of(parsed)
    metadata = error.get("metadata")
    return error.get("code") == "content_filter" or (isinstance(metadata, dict) and "flagged_input" in metadata)


def told(body: str, parsed: Any) -> str:
    """The server's own words on one line, cut to 300 characters."""
    if not body.strip():
        return "an empty body"
    if parsed is None and body.lstrip()[:1] == "<":
        title = _TITLE.search(body)
        return f"an HTML page titled {one_line(title[1])!r}" if title else "an HTML page"
    error = error_of(parsed)
    message = error.get("message") or error.get("detail")
    return one_line(str(message) if message else body)


def one_line(text: str) -> str:
    """A text on one line, cut to 300 characters."""
    line = " ".join(text[: 4 * _MAX_QUOTED_CHARS].split())
    return line if len(line) <= _MAX_QUOTED_CHARS else line[:_MAX_QUOTED_CHARS] + "…"


def as_error(
    refusal: Refusal,
    *,
    name: str,
    config: OpenAITeacherConfig,
    served: str,
    say: Callable[[str], str],
    answered: bool = False,
) -> TeacherError:
    """Turns a status into the error that says what happens next.

    Args:
        refusal: The response.
        name: The teacher's name in the recipe.
        config: The teacher's section.
        served: Models that the server lists, empty where they are not known.
        say: Puts the teacher in front of a message and takes secrets out.
        answered: Whether it has answered before. A server that has does take the schema, whatever this request's fault.
    """
    status, got, code = refusal.status, refusal.told, refusal.code
    if status == 402 or (status in (400, 403, 429) and any(word in f"{code} {got}".lower() for word in _SPENT)):
        return SpendLimitError(say(f"the account has no credit left, got {got}; top it up, or use another api_key"))
    if status in (401, 403):
        do = "check the environment variable behind api_key" if config.api_key else "give one: api_key: ${NAME}"
        return WrongKeyError(say(f"the server does not accept the key, got {got}; {do}"))
    if 300 <= status < 400:
        target = refusal.headers.get("Location", "nowhere")
        return UnknownModelError(say(f"the server redirects to {one_line(target)} ({status}); set base_url to that"))
    if status in (404, 405) or "model_not_found" in code:
        return UnknownModelError(say(_unknown_model(got, name, config, served)))
    if status == 408:
        return TeacherTimeoutError(say(f"the server gave up waiting, got {got}; raise timeout_s"))
    if status == 429 and _DAILY.search(refusal.body[:_MAX_SEARCHED_CHARS]):
        return DailyQuotaError(
            say(f"a quota of a day or longer is used up, got {got}; run the same command again then")
        )
    if status == 429:
        message = say(f"too many requests, got {got}; lower max_concurrency, or wait")
        return RateLimitError(message, retry_after_s=retry_after_s(refusal.headers))
    if status >= 500 or status in (409, 425):
        message = say(f"the server is in trouble, got {got}; look at its log, or lower max_concurrency")
        return OverloadedError(message, retry_after_s=retry_after_s(refusal.headers))
    remedy = _remedy(got, config)
    if not answered and _blames_schema(got, config):
        return SchemaRejectedError(say(f"the server does not take the schema of the answer, got {got}; {remedy}"))
    return RequestRejectedError(say(f"the server refuses this request, got {got}; {remedy}"))


def _unknown_model(got: str, name: str, config: OpenAITeacherConfig, served: str) -> str:
    if served:
        return f"no model {config.model!r} here, got {got}; it serves {served}: correct teachers.{name}.model"
    return f"no model {config.model!r} or no such path, got {got}; correct model, or base_url (it usually ends in /v1)"


def _blames_schema(got: str, config: OpenAITeacherConfig) -> bool:
    words = got.lower()
    too_long = any(word in words for word in _TOO_LONG)
    return config.structured != "none" and not too_long and any(word in words for word in _SCHEMA_WORDS)


def _remedy(got: str, config: OpenAITeacherConfig) -> str:
    if _blames_schema(got, config):
        return f"where it does not know structured: {config.structured}, try {_KNOWS_LESS[config.structured]}"
    if any(word in got.lower() for word in _TOO_LONG):
        return "lower max_tokens, or shorten the row"
    return "correct what it names (extra_body: {field: null} takes a field out)"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, None where it does not say.

    ``retry-after-ms``, then ``Retry-After`` in seconds or as a date (RFC 9110 §10.2.3; measured from the server's own
    ``Date``, so that a clock that is off does not matter), then the reset of whichever ``x-ratelimit`` is used up.
    """
    if (wait_ms := _seconds(headers.get("retry-after-ms"))) is not None:
        return wait_ms / 1000
    stated = headers.get("Retry-After")
    if (wait_s := _seconds(stated)) is not None:
        return wait_s
    if (until := _date(stated)) is not None:
        now = _date(headers.get("Date")) or datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    return quiet_s(headers) or None


def quiet_s(headers: Mapping[str, str]) -> float:
    """Seconds until the quota is whole again that this response says is used up (``x-ratelimit-remaining-…: 0``).

    0 where none is. Waiting so long costs nothing also where the service lets a share through earlier: what it holds
    back meanwhile goes at once afterwards.
    """
    resets = [_duration(headers.get(reset)) or 0.0 for left, reset in _LEFT_AND_RESET if headers.get(left) == "0"]
    return max(resets, default=0.0)


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (TypeError, ValueError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _duration(text: str | None) -> float | None:
    parts = _DURATION.findall(text or "")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) if parts else _seconds(text)
