"""What Gemini means by a status other than 200.

Google's services say in ``error.details`` what a status alone does not (google.rpc.error_details): which quota was
exceeded (``QuotaFailure``), how long to wait (``RetryInfo``), and why a key is refused (``ErrorInfo``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

_MAX_QUOTED_CHARS = 300
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)s$")
_RETRY_IN = re.compile(r"retry in (\d+(?:\.\d+)?)(ms|s)\b", re.IGNORECASE)
_DAILY = re.compile(r"PerDay|PerMonth|\bper day\b|\bper month\b|\bdaily\b|\bmonthly\b", re.IGNORECASE)
# Not "billing": every quota message ends in "check your plan and billing details".
_SPENT = re.compile(
    r"credits? (?:are|is|have been) (?:depleted|exhausted)|prepay|spend(?:ing)? (?:cap|limit)|BILLING_DISABLED|"
    r"billing account .*(?:closed|disabled)|enable billing|billing (?:is not|has not been|to be) enabled",
    re.IGNORECASE,
)
_BAD_KEY = ("API_KEY_INVALID", "API_KEY_EXPIRED", "API key not valid", "API key expired", "API Key not found")
_SCHEMA = ("schema", "constraint that has too many states", "responsemimetype", "response_mime_type")
_TOO_LONG = ("token count", "exceeds the maximum number of tokens", "payload size", "request size")
# Results of a batch job carry canonical codes (google.rpc.Code) in place of HTTP's.
_HTTP_OF_CANONICAL = {
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    12: 501,
    13: 500,
    14: 503,
    15: 500,
    16: 401,
}


@dataclass(frozen=True)
class Refusal:
    """A response whose status is not 200.

    Attributes:
        status: HTTP status.
        body: Its body as JSON or text.
        headers: The response's headers, with names in lower case.
    """

    status: int
    body: Any
    headers: Mapping[str, str]

    @classmethod
    def of_status(cls, error: Mapping[str, Any]) -> Refusal:
        """From a ``google.rpc.Status``, as the lines of a batch job's results carry it."""
        code = error.get("code")
        number = code if isinstance(code, int) else 500
        return cls(_HTTP_OF_CANONICAL.get(number, number), {"error": dict(error)}, {})

    @property
    def error(self) -> Mapping[str, Any]:
        """The error object, empty where there is none. Some gateways wrap it in a list."""
        body = self.body[0] if isinstance(self.body, list) and self.body else self.body
        error = body.get("error", body) if isinstance(body, dict) else {}
        return error if isinstance(error, dict) else {"message": str(error)}

    @property
    def message(self) -> str:
        """The service's own words on one line, cut to 300 characters."""
        words = self.error.get("message") or (self.body if isinstance(self.body, str) else "")
        return one_line(str(words)) or "an empty body"

    @property
    def told(self) -> str:
        """Status and the service's own words."""
        name = self.error.get("status")
        return f"{self.status}{f' {name}' if isinstance(name, str) else ''}: {self.message}"

    def details(self, kind: str) -> list[Mapping[str, Any]]:
        """The details of a kind, such as ``QuotaFailure``."""
        listed = self.error.get("details")
        listed = listed if isinstance(listed, list) else []
        return [one for one in listed if isinstance(one, dict) and str(one.get("@type", "")).endswith(f".{kind}")]

    @property
    def reasons(self) -> list[str]:
        """Reasons of the ``ErrorInfo`` details."""
        return [str(info.get("reason")) for info in self.details("ErrorInfo")]


def one_line(text: str) -> str:
    """A text on one line, cut to 300 characters."""
    line = " ".join(text[: 4 * _MAX_QUOTED_CHARS].split())
    return line if len(line) <= _MAX_QUOTED_CHARS else line[:_MAX_QUOTED_CHARS] + "…"


def as_error(
    refusal: Refusal, *, name: str, model: str, say: Callable[[str], str], answered: bool = False
) -> TeacherError:
    """Turns a status into the error that says what happens next.

    Args:
        refusal: The response.
        name: The teacher's name in the recipe.
        model: The model asked.
        say: Puts the teacher in front of a message and takes secrets out.
        answered: Whether it has answered before. A model that has does take the schema, whatever this request's fault.
    """
    status, got = refusal.status, refusal.told
    text = f"{got} {' '.join(refusal.reasons)}"
    if status == 402 or (status in (400, 403, 429) and _SPENT.search(text)):
        return SpendLimitError(say(f"the account has no credit left, got {got}; top it up, or use another api_key"))
    if status in (401, 403) or any(word in text for word in _BAD_KEY):
        return WrongKeyError(
            say(f"the service does not accept the key, got {got}; check the environment variable behind api_key")
        )
    if 300 <= status < 400:
        target = one_line(refusal.headers.get("location", "nowhere"))
        return UnknownModelError(say(f"the service redirects to {target} ({status}); set base_url to that"))
    if status in (404, 501):
        do = f"correct teachers.{name}.model, or base_url and api_version"
        return UnknownModelError(say(f"no model {model!r} here, got {got}; {do}"))
    if status == 429:
        return _quota_error(refusal, say)
    if status in (408, 499, 504):
        return TeacherTimeoutError(say(f"the service gave up waiting, got {got}; raise timeout_s, or think less"))
    if status >= 500 or status in (409, 425):
        message = say(f"the service is in trouble, got {got}; lower max_concurrency, or wait")
        return OverloadedError(message, retry_after_s=retry_after_s(refusal))
    words = got.lower()
    too_long = any(word in words for word in _TOO_LONG)
    if not answered and not too_long and status == 400 and any(word in words for word in _SCHEMA):
        do = "ask for less: clauses: false, probs: none"
        return SchemaRejectedError(say(f"the service does not take the schema of the answer, got {got}; {do}"))
    do = "shorten the row" if too_long else "correct what it names (extra_body: {field: null} takes a field out)"
    return RequestRejectedError(say(f"the service refuses this request, got {got}; {do}"))


def _quota_error(refusal: Refusal, say: Callable[[str], str]) -> TeacherError:
    exceeded = [one for failure in refusal.details("QuotaFailure") for one in failure.get("violations") or ()]
    exceeded = [one for one in exceeded if isinstance(one, dict)]
    named = [f"{one.get('quotaId', '')} {one.get('quotaMetric', '')}" for one in exceeded]
    named += [str((info.get("metadata") or {}).get("quota_limit", "")) for info in refusal.details("ErrorInfo")]
    quota = next((one.strip() for one in named if one.strip()), "")
    got = f"{refusal.told}{f' ({one_line(quota)})' if quota else ''}"
    if any(str(one.get("quotaValue")) == "0" for one in exceeded):
        return SpendLimitError(say(f"the key's plan has no quota for this model, got {got}; use a key of a paid plan"))
    # Where the details name the quota, they decide: messages list the limits of every span.
    daily = _DAILY.search(" ".join(named)) if quota else _DAILY.search(refusal.message)
    if daily:
        return DailyQuotaError(
            say(f"a quota of a day or longer is used up, got {got}; run the same command again then")
        )
    message = say(f"too many requests, got {got}; lower max_concurrency, or wait")
    return RateLimitError(message, retry_after_s=retry_after_s(refusal))


def retry_after_s(refusal: Refusal) -> float | None:
    """Seconds that the service asks to wait: ``RetryInfo``, else the header ``Retry-After``, else its words."""
    for info in refusal.details("RetryInfo"):
        if found := _DURATION.match(str(info.get("retryDelay", ""))):
            return float(found[1])
    try:
        stated = float(refusal.headers.get("retry-after", ""))
    except ValueError:
        stated = math.nan
    if math.isfinite(stated) and stated >= 0:
        return stated
    if found := _RETRY_IN.search(str(refusal.error.get("message") or "")):
        return float(found[1]) / (1000 if found[2].lower() == "ms" else 1)
    return None


def blames_cache(refusal: Refusal) -> bool:
    """Whether the kept prefix is gone: it has expired or was deleted, and the service says 403 or 404 of it."""
    return refusal.status in (400, 403, 404) and "cachedcontent" in refusal.message.lower().replace(" ", "")
