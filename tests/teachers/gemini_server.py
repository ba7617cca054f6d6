"""An imitation of Google's service as google-genai speaks to it, which fails as it is told to.

Tests take it from the fixture ``gemini_server`` in ``tests/conftest.py``. It knows ``generateContent``, ``decisions``,
``cachedContents``, ``batches``, the upload and download of files, and the list of models; fields that the service does
not know it refuses, as the service does.

Faults (a string each; what follows a colon is the fault's argument)::

    ok                 an answer that fits the schema
    slow:SECONDS       ok, after a while
    never              no answer until the server stops
    401 403 404 400 503 …    that status, with a google.rpc.Status of that number's usual name
    minute:SECONDS     429 for a quota a minute, with RetryInfo
    minute_and_day     429 that names both, the daily one as exceeded
    daily              429 for a quota a day, with RetryInfo
    no_plan            429 for a quota whose value is 0
    credit             429 that says that the prepaid credits are depleted
    billing            403 BILLING_DISABLED
    bad_key            400 API_KEY_INVALID, which is how the service refuses a wrong key
    schema             400 that blames the response schema
    too_long           400 for a prompt that is too long
    busy:SECONDS       503, with RetryInfo
    half_error         503 with half a JSON
    redirect           307 to another host
    html  half_json  empty   200 with such a body
    cut                200, half of the body, then the connection is reset
    drop               the connection is closed before any answer
    no_candidates      200 with usage only
    blocked            200, the prompt was blocked
    finish:REASON      200, the candidate ended so
    text:…             200, exactly this text
    fewer              200, a decision without its last answer or its last option
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

KEY = "AIza-very-secret-key-0123456789"
_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_KNOWN_FIELDS = {
    "contents",
    "systemInstruction",
    "generationConfig",
    "safetySettings",
    "serviceTier",
    "cachedContent",
    "tools",
    "toolConfig",
}
_QUOTA_WORDS = (
    "You exceeded your current quota, please check your plan and billing details. * Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_content_requests, limit: 10, model: gemini-tiny Please retry in 18.4s."
)
_HTML = "<!doctype html><html><head><title>Welcome to the proxy</title></head><body>Sign in</body></html>"


class GeminiServer:
    """Runs on a free port of the loopback interface, in a thread of its own.

    Attributes:
        base_url: For a teacher's ``base_url``.
        key: The key that it accepts.
        models: Those that it has.
        requests: ``(method and path, body)`` of what came in, in order; the body is parsed JSON, or None.
        headers: Their headers.
        caches: Cached contents that exist, by name.
        least_cached_chars: Shorter ones are refused as too small.
        batch_state: What a batch that was submitted says of itself.
        jobs: Batch jobs, by name.
        decides: Whether the model makes decisions.
        delay_s: Added to every answer.
    """

    def __init__(self, *, models: tuple[str, ...] = ("gemini-tiny",)) -> None:
        self.models = models
        self.key = KEY
        self.requests: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.caches: dict[str, dict[str, Any]] = {}
        self.least_cached_chars = 0
        self.batch_state = "BATCH_STATE_SUCCEEDED"
        self.jobs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.decides = True
        self.delay_s = 0.0
        self.answer: Callable[[dict[str, Any]], str] = fitting_answer
        self._script: list[str] = []
        self._made = Counter[str]()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="gemini-server", daemon=True)
        self._thread.start()
        assert self._ready.wait(10), "the imitation did not start"

    def script(self, *faults: str) -> None:
        """The next questions, in the order in which they come, meet these; afterwards all is well."""
        self._script.extend(faults)

    def asked(self, part: str) -> list[Any]:
        """Bodies of the requests whose method and path contain this."""
        return [body for path, body in self.requests if part in path]

    def stop(self) -> None:
        """Ends the server and every connection."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    # The server

    def _serve(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = web.Application(client_max_size=256 * 1024**2, middlewares=[self._note])
        app.router.add_post("/v1beta/models/{model}:generateContent", self._generate)
        app.router.add_post("/v1beta/models/{model}:batchGenerateContent", self._submit)
        app.router.add_get("/v1beta/models", self._list_models)
        app.router.add_post("/v1beta/decisions", self._decide)
        app.router.add_post("/v1beta/cachedContents", self._cache)
        app.router.add_delete("/v1beta/cachedContents/{name}", self._uncache)
        app.router.add_get("/v1beta/batches", self._list_jobs)
        app.router.add_post("/v1beta/batches/{name}:cancel", self._cancel)
        app.router.add_get("/v1beta/batches/{name}", self._job)
        app.router.add_post("/upload/v1beta/files", self._start_upload)
        app.router.add_post("/upload/bytes/{name}", self._upload)
        app.router.add_get("/v1beta/files/{name}:download", self._download)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    @web.middleware
    async def _note(self, http: web.Request, handler: Any) -> web.StreamResponse:
        content = await http.read()
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        self.requests.append((f"{http.method} {http.path}", body))
        self.headers.append({name.lower(): value for name, value in http.headers.items()})
        # The address that an upload is given is itself the permission.
        if http.headers.get("x-goog-api-key") != KEY and not http.path.startswith("/upload/bytes/"):
            return refusal(400, "API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID")
        response: web.StreamResponse = await handler(http)
        return response

    def _new(self, kind: str) -> str:
        self._made[kind] += 1
        return f"{kind}/{kind}-{self._made[kind]}"

    # Answers

    async def _generate(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        if http.match_info["model"] not in self.models:
            return refusal(404, f"models/{http.match_info['model']} is not found for API version v1beta.")
        if unknown := set(body) - _KNOWN_FIELDS:
            return refusal(400, f'Invalid JSON payload received. Unknown name "{min(unknown)}": Cannot find field.')
        if (name := body.get("cachedContent")) is not None:
            if "systemInstruction" in body:
                return refusal(
                    400, "CachedContent can not be used with GenerateContent request setting system_instruction"
                )
            if name not in self.caches:
                return refusal(403, f"CachedContent not found (or permission denied): {name}")
        kind, argument, failed = await self._meet(http)
        if failed is not None:
            return failed
        return await self._whole(http, self._generated(body, kind, argument), kind)

    async def _decide(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        if not self.decides or body["model"] not in self.models:
            return refusal(404, f"models/{body['model']} is not found or does not support decisions.")
        kind, _, failed = await self._meet(http)
        if failed is not None:
            return failed
        return await self._whole(http, decided(body, kind), kind)

    async def _meet(self, http: web.Request) -> tuple[str, str, web.StreamResponse | None]:
        kind, _, argument = (self._script.pop(0) if self._script else "ok").partition(":")
        await asyncio.sleep(self.delay_s)
        if kind == "never":
            await self._stopping.wait()
        if kind == "slow":
            await asyncio.sleep(float(argument))
        if kind == "drop":
            assert http.transport is not None
            http.transport.close()
            return kind, argument, web.Response()
        return kind, argument, fault_response(kind, argument)

    async def _whole(self, http: web.Request, answer: dict[str, Any], kind: str) -> web.StreamResponse:
        text = json.dumps(answer, ensure_ascii=False)
        if kind == "cut":
            headers = {"Content-Type": "application/json", "Content-Length": str(len(text.encode()))}
            response = web.StreamResponse(headers=headers)
            await response.prepare(http)
            await response.write(text.encode()[: len(text) // 2])
            assert http.transport is not None
            http.transport.close()
            return response
        bodies = {"html": _HTML, "empty": "", "half_json": text[: len(text) // 2]}
        content_type = "text/html" if kind == "html" else "application/json"
        return web.Response(text=bodies.get(kind, text), content_type=content_type)

    def _generated(self, body: dict[str, Any], kind: str = "ok", argument: str = "") -> dict[str, Any]:
        read = words_of(body.get("systemInstruction")) + words_of(body["contents"])
        usage: dict[str, Any] = {"promptTokenCount": read}
        if (name := body.get("cachedContent")) is not None:
            kept = words_of(self.caches[name].get("systemInstruction"))
            usage |= {"promptTokenCount": read + kept, "cachedContentTokenCount": kept}
        if kind == "no_candidates":
            return {"usageMetadata": usage}
        if kind == "blocked":
            return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage}
        text = argument if kind == "text" else self.answer(body)
        parts = [{"text": text}]
        settings = body.get("generationConfig", {})
        usage["candidatesTokenCount"] = len(text.split())
        thinking = settings.get("thinkingConfig", {})
        if thinking.get("thinkingBudget", 0) or thinking.get("thinkingLevel"):
            usage["thoughtsTokenCount"] = 50
            if thinking.get("includeThoughts"):
                parts.insert(0, {"text": "The shopper wants a shoe.", "thought": True})
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "finishReason": "STOP", "index": 0}
        if settings.get("responseLogprobs"):
            candidate["logprobsResult"] = logprobs_of(text)
        if kind == "finish":
            candidate |= {"finishReason": argument, "finishMessage": "It ended so."}
            if argument == "MAX_TOKENS":
                parts[-1]["text"] = text[: len(text) // 2]
            elif argument != "STOP":
                del candidate["content"]
        usage["totalTokenCount"] = sum(value for name, value in usage.items() if name != "cachedContentTokenCount")
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-tiny-001", "responseId": "r"}

    async def _list_models(self, http: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": f"models/{name}"} for name in self.models]})

    # Cached contents

    async def _cache(self, http: web.Request) -> web.Response:
        body = await http.json()
        chars = len(json.dumps(body["systemInstruction"]))
        if chars < self.least_cached_chars:
            return refusal(400, f"Cached content is too small. total_token_count={chars}, min_total_token_count=1024")
        name = self._new("cachedContents")
        self.caches[name] = body
        return web.json_response({"name": name, "model": body["model"], "usageMetadata": {"totalTokenCount": chars}})

    async def _uncache(self, http: web.Request) -> web.Response:
        if self.caches.pop(f"cachedContents/{http.match_info['name']}", None) is None:
            return refusal(404, "not found")
        return web.json_response({})

    # Batch jobs

    async def _submit(self, http: web.Request) -> web.StreamResponse:
        batch = (await http.json())["batch"]
        _, _, failed = await self._meet(http)
        if failed is not None:
            return failed
        source = batch["inputConfig"]
        if "fileName" in source:
            lines = [json.loads(line) for line in self.files[source["fileName"]].decode().splitlines()]
            answers = [{"key": line["key"], **self._line(line["request"])} for line in lines]
            result = f"files/{self._new('files').rpartition('/')[2]}"
            self.files[result] = "\n".join(map(json.dumps, reversed(answers))).encode()
            output: dict[str, Any] = {"responsesFile": result}
        else:
            inlined = source["requests"]["requests"]
            answers = [{"metadata": one["metadata"], **self._line(one["request"])} for one in inlined]
            output = {"inlinedResponses": {"inlinedResponses": answers}}
        name = self._new("batches")
        metadata = {
            "model": f"models/{http.match_info['model']}",
            "displayName": batch["displayName"],
            "output": output,
        }
        self.jobs[name] = {"name": name, "metadata": metadata}
        return web.json_response(self._seen(name))

    def _line(self, request: dict[str, Any]) -> dict[str, Any]:
        if "fails" in json.dumps(request["contents"]):
            return {"error": {"code": 13, "message": "Internal error encountered."}}
        return {"response": self._generated({name: value for name, value in request.items() if name != "model"})}

    def _seen(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        metadata = {**job["metadata"], "state": job.get("state", self.batch_state)}
        over = metadata["state"] not in ("BATCH_STATE_PENDING", "BATCH_STATE_RUNNING")
        if not over:
            del metadata["output"]
        return {"name": name, "metadata": metadata, "done": over}

    async def _list_jobs(self, http: web.Request) -> web.Response:
        names = sorted(self.jobs, reverse=True)
        start = int(http.query.get("pageToken") or 0)
        end = start + min(int(http.query.get("pageSize") or 50), 2)  # small pages, so that there are several
        page: dict[str, Any] = {"operations": [self._seen(name) for name in names[start:end]]}
        if end < len(names):
            page["nextPageToken"] = str(end)
        return web.json_response(page)

    async def _job(self, http: web.Request) -> web.Response:
        name = f"batches/{http.match_info['name']}"
        return web.json_response(self._seen(name)) if name in self.jobs else refusal(404, "no such batch")

    async def _cancel(self, http: web.Request) -> web.Response:
        self.jobs[f"batches/{http.match_info['name']}"]["state"] = "BATCH_STATE_CANCELLED"
        return web.json_response({})

    # Files

    async def _start_upload(self, http: web.Request) -> web.Response:
        name = self._new("files")
        url = f"{self.base_url}/upload/bytes/{name.rpartition('/')[2]}"
        return web.json_response({}, headers={"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"})

    async def _upload(self, http: web.Request) -> web.Response:
        name = f"files/{http.match_info['name']}"
        self.files[name] = self.files.get(name, b"") + await http.read()
        final = "finalize" in http.headers["X-Goog-Upload-Command"]
        status = {"X-Goog-Upload-Status": "final" if final else "active"}
        return web.json_response({"file": {"name": name}} if final else {}, headers=status)

    async def _download(self, http: web.Request) -> web.Response:
        return web.Response(body=self.files[f"files/{http.match_info['name']}"])


def refusal(
    status: int, message: str, *, reason: str = "", details: list[dict[str, Any]] | None = None
) -> web.Response:
    """An error as Google's services write it (``google.rpc.Status``)."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}
    listed = ([info] if reason else []) + (details or [])
    name = _STATUS_NAMES.get(status, "UNKNOWN")
    error = {"code": status, "message": message, "status": name, "details": listed}
    return web.json_response({"error": error}, status=status)


def quota(*exceeded: tuple[str, str]) -> list[dict[str, Any]]:
    metric = "generativelanguage.googleapis.com/generate_content_requests"
    violations = [{"quotaMetric": metric, "quotaId": name, "quotaValue": value} for name, value in exceeded]
    return [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations}]


def wait(seconds: str) -> list[dict[str, Any]]:
    return [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds}s"}]


def fault_response(kind: str, argument: str) -> web.Response | None:
    """The refusal that a fault stands for; None for the faults that are answers."""
    minute, day = "GenerateRequestsPerMinutePerProjectPerModel", "GenerateRequestsPerDayPerProjectPerModel"
    if kind.isdigit():
        return refusal(int(kind), f"scripted fault {kind}\nsecond line")
    made: dict[str, Callable[[], web.Response]] = {
        "minute": lambda: refusal(429, _QUOTA_WORDS, details=quota((minute, "10")) + wait(argument)),
        "minute_and_day": lambda: refusal(429, _QUOTA_WORDS, details=quota((minute, "10"), (day, "250")) + wait("18")),
        "daily": lambda: refusal(429, _QUOTA_WORDS, details=quota((day, "250")) + wait("18")),
        "no_plan": lambda: refusal(429, _QUOTA_WORDS, details=quota((f"{day}-FreeTier", "0")) + wait("18")),
        "credit": lambda: refusal(429, "Your prepayment credits are depleted. Please go to AI Studio."),
        "billing": lambda: refusal(403, "This API method requires billing to be enabled.", reason="BILLING_DISABLED"),
        "bad_key": lambda: refusal(400, f"API key not valid: {KEY}.", reason="API_KEY_INVALID"),
        "schema": lambda: refusal(
            400, "The specified schema produces a constraint that has too many states for serving."
        ),
        "too_long": lambda: refusal(
            400, "The input token count (1200000) exceeds the maximum number of tokens allowed."
        ),
        "half_error": lambda: web.Response(status=503, text='{"error": {"co', content_type="application/json"),
        "redirect": lambda: web.Response(status=307, headers={"Location": "http://127.0.0.1:9/elsewhere"}),
        "busy": lambda: refusal(503, "The model is overloaded.", details=wait(argument) if argument else None),
    }
    return made[kind]() if kind in made else None


def words_of(contents: Any) -> int:
    """Tokens, as this server counts: words."""
    listed = contents if isinstance(contents, list) else [contents] if contents else []
    return sum(len(part.get("text", "").split()) for content in listed for part in content["parts"])


def digest_of(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def decided(body: dict[str, Any], kind: str) -> dict[str, Any]:
    """Answers to every question: the label is a hash of the question and of the item that it is about."""
    usage = {"total_input_tokens": len(json.dumps(body).split()), "total_output_tokens": 0}
    if kind == "blocked":
        return {"prompt_feedback": {"block_reason": "prohibited_content"}, "usage": usage}
    answers: dict[str, Any] = {}
    for name, question in body["questions"].items():
        options = list(question["criteria"])
        winner = options[digest_of(question["instructions"])[0] % len(options)]
        probs = {option: 0.7 if option == winner else 0.3 / (len(options) - 1) for option in options}
        if kind == "fewer":
            del probs[next(option for option in reversed(options) if option != winner)]
        answers[name] = {"type": "choice", "choice": winner, "confidence": 0.7, "probabilities": probs}
    if kind == "fewer" and len(answers) > 1:
        answers.popitem()
    return {"answers": answers, "usage": usage}


def logprobs_of(text: str) -> dict[str, Any]:
    """As if a label were two tokens: its first letter, 0.8 likely, with ``s`` and ``x`` beside it, and the rest."""
    first = {text[:1]: -0.2231435513142097, "s": -2.302585092994046, "i": -3.506557897319982}
    top = [{"token": token, "tokenId": 1, "logProbability": logprob} for token, logprob in first.items()]
    rest = {"token": text[1:], "tokenId": 2, "logProbability": -0.01}
    return {
        "topCandidates": [{"candidates": top}, {"candidates": [rest]}],
        "chosenCandidates": [top[0], rest],
        "logProbabilitySum": -0.2331,
    }


def fitting_answer(body: dict[str, Any]) -> str:
    """An answer that fits the request's schema, or the bare label; the label is a hash of the first user message."""
    digest = digest_of(body["contents"][0]["parts"][0]["text"])
    schema = body.get("generationConfig", {}).get("responseJsonSchema")
    if schema is None:
        return "exact"
    properties = schema["properties"]
    labels = properties["label"]["enum"]
    label = labels[digest[0] % len(labels)]
    values: dict[str, Any] = {"trace": f"Because of {digest.hex()}.", "label": label, "confidence": 0.7}
    if "clauses" in properties:
        values["clauses"] = properties["clauses"]["items"]["enum"][:1]
    if "probs" in properties:
        rest = 0.3 / (len(labels) - 1)
        values["probs"] = {name: 0.7 if name == label else rest for name in labels}
    return json.dumps({name: values[name] for name in properties})
