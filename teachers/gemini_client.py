"""The one place that calls google-genai: bodies in, raw responses out.

What is sent is the body that was hashed: it goes through the SDK as ``extra_body``, which puts its fields in place of
those that the SDK would write. What comes back is the response's own text, not the SDK's reading of it. Traps of
google-genai 3.6, each with a test:

- Without ``retry_options`` it sends a request again by itself after a lost connection; ``decisions`` do so after a 429.
- Answers that a model breaks off with ``CONTINUATION`` are continued by further requests that nobody counted.
- The client closes its connections when it is collected, so a reference to it is kept.
- Redirects are followed, with the key in a header that nothing takes off on the way to another host.
- ``decisions`` makes new pydantic models for plain data that it is given: most of the time that a request takes it.
- A raw response of ``decisions`` is one of any status below 400.
- ``generateContent`` goes over aiohttp, ``decisions`` over httpx with 100 connections at most.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from distill.labeling.errors import MissingDependencyError
from distill.teachers.gemini_config import GeminiTeacherConfig
from distill.teachers.gemini_errors import Refusal

if TYPE_CHECKING:
    import aiohttp

_KEEPALIVE_S = 15.0
_INSTALL = "pip install 'distill[gemini]'"


class RefusedError(Exception):
    """The service answered with another status than 200.

    Attributes:
        refusal: What it said.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.told)
        self.refusal = refusal


class NoAnswerError(Exception):
    """No whole answer came.

    Attributes:
        timed_out: Whether the time allowed was over.
        sent: Whether the request may have arrived.
    """

    def __init__(self, message: str, *, timed_out: bool, sent: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.sent = sent


class GeminiClient:
    """A client of google-genai and its connections. Made inside the event loop that uses it.

    Args:
        config: The teacher's section.
    """

    def __init__(self, config: GeminiTeacherConfig) -> None:
        genai, types = sdk()
        import aiohttp

        self._types = types
        self._input = importlib.import_module("google.genai.interactions").TextContent(text="-")
        question = importlib.import_module("google.genai.decisions").ChoiceQuestion
        self._questions = {"item": question(instructions="-", criteria={"a": "", "b": ""})}
        self._session: aiohttp.ClientSession = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,
        )
        self._client = genai.Client(
            api_key=config.api_key.get_secret_value(),
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=config.base_url,
                api_version=config.api_version,
                timeout=max(1, round(config.wait_s * 1000)),
                retry_options=types.HttpRetryOptions(attempts=1),
                aiohttp_client=self._session,
                # Each transport takes what it knows of these.
                async_client_args={"limits": _no_limits(), "allow_redirects": False, "follow_redirects": False},
            ),
        )

    @property
    def aio(self) -> Any:
        """The SDK's own asynchronous surface, for caches, files and batches."""
        return self._client.aio

    async def generate(self, model: str, body: Mapping[str, Any]) -> str:
        """Sends a body of ``generateContent``.

        Returns:
            The response's text.

        Raises:
            RefusedError: The status is not 200.
            NoAnswerError: No whole answer came.
        """
        types = self._types
        config = types.GenerateContentConfig(
            http_options=types.HttpOptions(extra_body=dict(body)),
            should_return_http_response=True,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            automatic_continuation=False,
        )
        try:
            # The contents are those of the body: what stands here is replaced by them.
            response = await self._client.aio.models.generate_content(model=model, contents="-", config=config)
        except Exception as error:
            raise as_failure(error) from None
        return str(response.sdk_http_response.body or "")

    async def decide(self, body: Mapping[str, Any]) -> str:
        """Sends a body of ``decisions``.

        Returns:
            The response's text.

        Raises:
            RefusedError: The status is not 200.
            NoAnswerError: No whole answer came.
        """
        try:
            # The fields of the body replace these, which are the SDK's own models so that it does not make new ones.
            response = await self._client.aio.decisions.with_raw_response.create(
                model=body["model"], input=self._input, questions=self._questions, extra_body=dict(body)
            )
            content: bytes = await response.read()
        except Exception as error:
            raise as_failure(error) from None
        text = content.decode("utf-8", "replace")
        if response.status_code != 200:
            raise RefusedError(Refusal(response.status_code, text, _lowered(response.headers)))
        return text

    async def close(self) -> None:
        """Closes its connections."""
        with suppress(Exception):  # what is being let go of cannot be of use any more
            await self._client.aio.aclose()
        await self._session.close()


def sdk() -> tuple[Any, Any]:
    """The modules ``google.genai`` and ``google.genai.types``, which take a second to import."""
    return importlib.import_module("google.genai"), importlib.import_module("google.genai.types")


def require_sdk() -> None:
    """Says how to install google-genai, without importing it where it is there.

    Raises:
        MissingDependencyError: It is not installed.
    """
    with suppress(ModuleNotFoundError):  # where there is no package google at all
        if find_spec("google.genai") is not None:
            return
    raise MissingDependencyError("google-genai", needed_for="teachers of type gemini", install=_INSTALL)


def as_failure(error: Exception) -> Exception:
    """What went wrong, out of the four families of exceptions in which the SDK may tell it.

    Returns:
        :class:`RefusedError` or :class:`NoAnswerError`; the error itself where it is neither (a mistake of ours).
    """
    import aiohttp

    code = getattr(error, "status_code", None) or getattr(error, "code", None)
    if isinstance(code, int):
        body = getattr(error, "details", None) or getattr(error, "body", None)
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        return RefusedError(Refusal(code, body, _lowered(headers)))
    told = " ".join(str(error).split()) or type(error).__name__
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, TimeoutError) or kinds & {"APITimeoutError", "TimeoutException"}:
        return NoAnswerError(told, timed_out=True, sent=True)
    cause = {kind.__name__ for kind in type(error.__cause__).__mro__}
    unsent = isinstance(error, aiohttp.ClientConnectorError) or "ConnectError" in kinds | cause
    if isinstance(error, aiohttp.ClientError | OSError) or kinds & {"APIConnectionError", "HTTPError"}:
        return NoAnswerError(told, timed_out=False, sent=not unsent)
    return error


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): str(value) for name, value in headers.items()}


def _no_limits() -> Any:
    """The engine bounds what is in flight; httpx would hold back what is above 100 and let it time out."""
    for name in ("httpx2", "httpx"):
        with suppress(ModuleNotFoundError):
            return importlib.import_module(name).Limits(max_connections=None, max_keepalive_connections=256)
    return None
