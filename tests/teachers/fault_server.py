"""A local server that speaks chat completions, answers from the row's text, and fails as it is told to.

Tests of teachers, the engine and the CLI take it from the fixture ``fault_server`` in ``tests/conftest.py``.

Faults (a string each; what follows a colon is the fault's argument)::

    ok                 an answer that fits the schema
    slow:SECONDS       ok, after a while
    never              no answer until the server stops
    401 403 404 400 413 422 402 500 503 …    that status, with an OpenAI error body
    429  429:SECONDS   too many requests, with Retry-After where SECONDS is given
    quota              429 with the code insufficient_quota
    daily              429 whose message names a quota a day
    schema             400 that blames the schema of the answer
    used_up:SECONDS    ok, with headers that say that the requests a minute are used up, and for how long
    azure_filter       400 with the code content_filter
    redirect           307 to another path
    html               200 with an HTML page
    half_json          200 with the first half of the body, as if that were all
    no_choices         200 with an error object instead of choices
    empty              200 with an empty body
    cut                200 with the full Content-Length, half of the body, then the connection is reset
    drop               the connection is closed before any answer
    refusal            200, the model declines
    content_filter     200, finish_reason content_filter
    length             200, finish_reason length, half an answer
    prose              200, prose around no JSON
    unknown_label      200, a label outside the set
    abstain            200, label null
    text:…             200, exactly this text
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

DEFAULT_LABELS = ("exact", "substitute", "complement", "irrelevant")
_ERROR_CODES = {
    "quota": (429, "insufficient_quota"),
    "daily": (429, "rate_limit_exceeded"),
    "schema": (400, "invalid_request_error"),
    "azure_filter": (400, "content_filter"),
}
_ERROR_WORDS = {
    "daily": "Rate limit reached for tiny on requests per day (RPD): Limit 1000, Used 1000.",
    "schema": "Invalid schema for response_format 'answer': 'maxItems' is not permitted.",
}
_HTML = "<!doctype html><html><head><title>Welcome to the proxy</title></head><body>Sign in</body></html>"


class FaultServer:
    """Runs on a free port of the loopback interface, in a thread of its own.

    Args:
        api_key: Where given, requests without it get 401.
        models: What ``/models`` lists; asking for another is answered 404.

    Attributes:
        base_url: For a teacher's ``base_url``.
        requests: Bodies of the requests that came in, in order.
        headers: Their headers.
        counts: How often each request (hash of its body) came in.
        most_in_flight: The most requests that were being answered at one time.
    """

    def __init__(self, *, api_key: str | None = None, models: tuple[str, ...] = ("tiny",)) -> None:
        self.api_key = api_key
        self.models = models
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self.answer: Callable[[dict[str, Any]], str] = fitting_answer
        self._script: list[str] = []
        self._always: str | None = None
        self._by_text: list[tuple[str, list[str], str]] = []
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="fault-server", daemon=True)
        self._thread.start()
        assert self._ready.wait(10), "the fault server did not start"

    def script(self, *faults: str) -> None:
        """The next requests, in the order in which they come, meet these; afterwards all is well."""
        self._script.extend(faults)

    def always(self, fault: str | None) -> None:
        """Every request meets this; None ends it."""
        self._always = fault

    def on(self, text: str, *faults: str, then: str = "ok") -> None:
        """Requests whose messages contain ``text`` meet these, one each, and ``then`` afterwards."""
        self._by_text.append((text, list(faults), then))

    def requests_about(self, text: str) -> list[dict[str, Any]]:
        """Requests whose user messages contain ``text``."""
        return [request for request in self.requests if text in user_text(request)]

    @staticmethod
    def items_of(request: dict[str, Any]) -> list[str]:
        """The items of a request about several rows, in order; none where it is about one."""
        found = re.findall(r"^Item \d+ \(mark (\w+)\):\n<data \1>\n(.*?)\n</data \1>$", user_text(request), re.S | re.M)
        return [text for _, text in found]

    def stop(self) -> None:
        """Ends it; whoever still waits for an answer is cut off."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)

    def _serve(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._completions)
        app.router.add_get("/v1/models", self._list_models)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _list_models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        raw = await http.read()
        request = json.loads(raw)
        with self._lock:
            self.requests.append(request)
            self.headers.append(dict(http.headers))
            self.counts[hashlib.sha256(raw).hexdigest()] += 1
            fault = self._next_fault(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._respond(http, request, fault)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _next_fault(self, request: dict[str, Any]) -> str:
        for text, faults, then in self._by_text:
            if text in user_text(request):
                return faults.pop(0) if faults else then
        if self._script:
            return self._script.pop(0)
        return self._always or "ok"

    async def _respond(self, http: web.Request, request: dict[str, Any], fault: str) -> web.StreamResponse:
        kind, _, argument = fault.partition(":")
        if self.api_key is not None and http.headers.get("Authorization") != f"Bearer {self.api_key}":
            given = http.headers.get("Authorization", "nothing")
            return error_response(401, f"Incorrect API key provided: {given}", code="invalid_api_key")
        if request["model"] not in self.models:
            return error_response(404, f"The model `{request['model']}` does not exist.", code="model_not_found")
        if kind in _ERROR_CODES or kind.isdigit():
            status, code = _ERROR_CODES.get(kind, (0, kind))
            headers = {"Retry-After": argument} if argument else {}
            return error_response(
                status or int(kind),
                _ERROR_WORDS.get(kind, f"scripted fault {kind}\nsecond line"),
                code=code,
                headers=headers,
            )
        if kind == "never":
            await self._stopping.wait()
        if kind == "slow":
            await asyncio.sleep(float(argument))
        if kind == "redirect":
            return web.Response(status=307, headers={"Location": "/elsewhere"})
        return await self._body(http, request, kind, argument)

    async def _body(self, http: web.Request, request: dict[str, Any], kind: str, argument: str) -> web.StreamResponse:
        if kind == "drop":
            assert http.transport is not None
            http.transport.close()
            return web.Response()
        body = json.dumps(completion(request, kind, argument, self.answer), ensure_ascii=False)
        if kind == "cut":
            return await _cut_off(http, body.encode())
        bodies = {"html": _HTML, "empty": "", "half_json": body[: len(body) // 2]}
        spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{argument}s"}
        return web.Response(
            text=bodies.get(kind, body),
            content_type="text/html" if kind == "html" else "application/json",
            headers=spent if kind == "used_up" else None,
        )


async def _cut_off(http: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(http)
    await response.write(body[: len(body) // 2])
    assert http.transport is not None
    http.transport.close()
    return response


def error_response(status: int, message: str, *, code: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"message": message, "type": "scripted", "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


def completion(
    request: dict[str, Any], kind: str, argument: str, answer: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """A chat completion as vLLM writes it, with what the fault changes."""
    if kind == "no_choices":
        return {"error": {"message": "upstream had no worker", "code": 502}}
    text: str | None = answer(request)
    texts = {
        "prose": "This product is close to what the shopper wants, I would say it suits them well.",
        "unknown_label": json.dumps({"label": "great match"}),
        "abstain": json.dumps({"label": None}),
        "length": (text or "")[: len(text or "") // 2],
        "refusal": None,
        "content_filter": None,
        "text": argument,
    }
    text = texts.get(kind, text)
    finish = kind if kind in ("length", "content_filter") else "stop"
    refusal = "I cannot help with that." if kind == "refusal" else None
    words = sum(len(str(message["content"]).split()) for message in request["messages"])
    message = {"role": "assistant", "content": text, "refusal": refusal, "reasoning_content": None, "tool_calls": []}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": words,
            "completion_tokens": len((text or "").split()),
            "total_tokens": words + len((text or "").split()),
        },
    }


def user_text(request: dict[str, Any]) -> str:
    return "\n".join(str(message["content"]) for message in request["messages"] if message["role"] == "user")


def fitting_answer(request: dict[str, Any]) -> str:
    """An answer that fits the request's schema; the label is a hash of the first user message, or of each item."""
    first = next(message["content"] for message in request["messages"] if message["role"] == "user")
    schema = request.get("response_format", {}).get("json_schema", {}).get("schema", {})
    properties = schema.get("properties", {"label": {"enum": list(DEFAULT_LABELS)}})
    if "answers" not in properties:
        return json.dumps(_fitting(str(first), properties))
    fields = schema["$defs"]["answer"]["properties"]
    items = enumerate(FaultServer.items_of(request), start=1)
    answers = {str(number): _fitting(text, fields) for number, text in items}
    return json.dumps({"answers": answers})


def _fitting(text: str, properties: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    labels = properties["label"]["enum"]
    label = labels[digest[0] % len(labels)]
    values: dict[str, Any] = {"trace": f"Because of {digest.hex()}.", "label": label, "confidence": 0.7}
    if "clauses" in properties:
        values["clauses"] = properties["clauses"]["items"]["enum"][:1]
    if "probs" in properties:
        rest = 0.3 / (len(labels) - 1)
        values["probs"] = {name: 0.7 if name == label else rest for name in labels}
    return {name: values[name] for name in properties}
