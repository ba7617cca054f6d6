"""A model behind a server that speaks OpenAI's chat completions (vLLM, SGLang, llama.cpp, hosted services)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from pydantic_core import from_json

from distill.labeling.errors import BadReplyError, ConnectionFailedError, TeacherError, TeacherTimeoutError
from distill.labeling.teacher import Completion, Finish, Prompt, Reply, Request, RequestHead
from distill.teachers.batch_config import batch_settings
from distill.teachers.config import OpenAITeacherConfig, PriceConfig
from distill.teachers.http_connections import (
    Connections,
    ConnectTimedOutError,
    CutOffError,
    NotConnectedError,
    Response,
)
from distill.teachers.openai_batches import OpenAIBatches
from distill.teachers.openai_errors import Refusal, as_error, is_filtered, one_line, quiet_s, told
from distill.teachers.servers import Server, Servers

if TYPE_CHECKING:
    import aiohttp

_CONNECT_TIMEOUT_S = 10.0
_LIST_MODELS_TIMEOUT_S = 3.0
# Below the five seconds after which uvicorn (vLLM, SGLang) closes an idle connection: one reused as it closes is a lost
# request.
_KEEPALIVE_S = 4.0

_MAX_MODELS_NAMED = 8
_BOUNDS = ("minimum", "maximum", "maxItems")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_HEADS = 128
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# A gateway that has nobody behind it, or a server that is going down: others may fare better.
_NOBODY_THERE = (502, 503, 504)
_FINISHES: dict[str, Finish] = {"length": "length", "content_filter": "filtered"}


class _Shared(NamedTuple):
    head: RequestHead
    prompt: Prompt


class OpenAITeacher:
    """Asks ``POST {base_url}/chat/completions``, one request a row, over one pool of connections.

    With several servers each request goes to one of them (:class:`~distill.teachers.servers.Servers`), and to another
    where that one cannot be reached. Their answers are one teacher's: the key holds the group's endpoint, not the
    server's.

    The ``seed`` sent is drawn from the recipe's seed, the row and the sample's index. One and the same seed for every
    row would draw every row's answer with the same random numbers: measured on vLLM with a random model at
    temperature 1, 50 of 50 rows then got the same label. At temperature 0 a repeat (``sample`` above 0) is mostly
    answered alike: give samples a temperature.

    Args:
        name: Its name in the recipe.
        config: Its section of the recipe.
    """

    def __init__(self, name: str, config: OpenAITeacherConfig) -> None:
        self.name = name
        self.family = config.family
        self.answer = config.answer
        self.max_concurrency = config.max_concurrency
        self.budget_usd = config.budget_usd
        self.quota = config.quota
        self.model = config.model
        self.endpoint = config.endpoint or endpoint_of(config.base_urls[0])
        self.batch = batch_settings(config.batch)
        self.batches = OpenAIBatches(self, config)
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._servers = Servers([Server(url, endpoint_of(url)) for url in config.base_urls])
        self._answered = False
        self._losses: tuple[type[Exception], ...] = ()
        self._models: asyncio.Task[str] | None = None
        self._secrets = _secrets_of(config)
        self._seeded = config.seed is not None and "seed" not in config.extra_body
        self._heads: dict[tuple[int, int, int], _Shared] = {}

    def __repr__(self) -> str:
        """Name, model and address; never the key."""
        return f"OpenAITeacher({self.name!r}, model={self._config.model!r}, endpoint={self.endpoint!r})"

    def compile(self, prompt: Prompt, *, sample: int) -> Request:
        """Writes the prompt as a chat completion request. The key, headers and timeout are no part of it."""
        shared = self._shared(prompt, sample)
        parts = [_encoded(prompt.user), b"}"]
        for role, text in prompt.turns:
            parts.append(b',{"role":%b,"content":%b}' % (_encoded(role), _encoded(text)))
        parts.append(b"]")
        if self._seeded:
            parts.append(b',"seed":%d' % _seed(self._config.seed or 0, sample, prompt.user))
        parts.append(b"}")
        request = shared.head.request(b"".join(parts), row_id=prompt.row_id)
        request.prefix = prompt.prefix
        return request

    def read(self, reply: Reply) -> Completion:
        """Takes the answer out of a chat completion.

        Raises:
            BadReplyError: The body is not a chat completion: an HTML page, half a JSON, no choices.
        """
        return self._read(reply.body, _parse(reply.body))

    def _read(self, body: str, parsed: Any) -> Completion:
        message, finish_reason = _first_choice(parsed)
        if message is None:
            if is_filtered(parsed):
                return Completion(text="", finish="filtered")
            raise BadReplyError(
                self._say(
                    f"expected a chat completion, got {told(body, parsed)}; is base_url an OpenAI-compatible "
                    "server's (it usually ends in /v1)?"
                )
            )
        text, finish = _text_of(message.get("content")), _FINISHES.get(finish_reason, "stop")
        if refusal := _text_of(message.get("refusal")):
            text, finish = text or refusal, "refused"
        usage = _usage_of(parsed)
        return Completion(
            text=text,
            reasoning=_text_of(message.get("reasoning_content") or message.get("reasoning")) or None,
            finish=finish,
            input_tokens=_count(usage, "prompt_tokens"),
            output_tokens=_count(usage, "completion_tokens"),
        )

    async def ask(self, request: Request) -> Reply:
        """Sends one request, once: again only to another server, where no connection was made to the first.

        Raises:
            TeacherError: By kind, as in :mod:`distill.labeling.errors`; the message holds no secret.
        """
        unreached: list[Server] = []
        lost: ConnectionFailedError | None = None
        while (server := self._servers.pick(request.prefix, without=unreached)) is not None:
            server.in_flight += 1
            try:
                return await self._ask_server(server, request)
            except ConnectionFailedError as error:
                self._servers.lost(server)
                if error.sent:
                    raise
                unreached.append(server)
                lost = error
            finally:
                server.in_flight -= 1
        assert lost is not None, "there is at least one server"
        raise lost

    async def _ask_server(self, server: Server, request: Request) -> Reply:
        assert self._session is not None, "open() comes before ask()"
        started = time.perf_counter()
        try:
            response = await (
                server.connections.post(request.body) if server.connections else self._post(server, request.body)
            )
        except self._losses as error:
            raise self._lost(error, server) from None
        latency_s = time.perf_counter() - started
        body = response.body.decode("utf-8", "replace")
        parsed = _parse(body)
        if response.status in _NOBODY_THERE:
            self._servers.lost(server)
        else:
            self._servers.reached(server)
        if not 200 <= response.status < 300 and not is_filtered(parsed):
            raise await self._refused(Refusal(response.status, _mapping(response.headers), body, parsed), server)
        completion = self._read(body, parsed)
        self._answered = True
        cost_usd = _cost_usd(_usage_of(parsed), self._config.price)
        return Reply(body, latency_s, cost_usd, completion, quiet_s=quiet_s(dict(response.headers)))

    def batch_reply(self, body: str) -> Reply:
        """The reply in a result of a batch job, at the price of one. How long it took is not known.

        Raises:
            BadReplyError: As :meth:`read`.
        """
        parsed, price = _parse(body), self._config.price
        completion = self._read(body, parsed)
        self._answered = True
        cost_usd = _cost_usd(_usage_of(parsed), price)
        if cost_usd is not None and price is not None:
            cost_usd *= price.batch_factor
        return Reply(body, 0.0, cost_usd, completion)

    @asynccontextmanager
    async def request(
        self, method: str, path: str, *, timeout_s: float, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Sends a request to another path of the first server, for what stands beside chat completions there.

        Raises:
            TeacherError: No response came, or no whole one while it was being read. What its status means is the
                caller's to say, with :meth:`refused`.
        """
        import aiohttp

        assert self._session is not None, "open() comes before request()"
        server, timeout = self._servers.all[0], aiohttp.ClientTimeout(timeout_s, sock_connect=_CONNECT_TIMEOUT_S)
        options = {"proxy": server.proxy, "allow_redirects": False, "timeout": timeout, **options}
        try:
            async with self._session.request(method, _url(server.base_url, path), **options) as response:
                yield response
        except self._losses as error:
            raise self._lost(error, server) from None

    async def refused(self, refusal: Refusal) -> TeacherError:
        """The error that a status other than 200 of the first server means."""
        return await self._refused(refusal, self._servers.all[0])

    async def _post(self, server: Server, body: bytes) -> Response:
        """Sends a body through a proxy."""
        assert self._session is not None
        url = _url(server.base_url, "/chat/completions")
        async with self._session.post(url, data=body, proxy=server.proxy, allow_redirects=False) as response:
            headers = [(name.lower(), value) for name, value in response.headers.items()]
            return Response(response.status, headers, await response.read())

    async def list_models(self) -> list[str]:
        """Names of the models that every server says it serves; none where one has no such list. Costs nothing.

        Raises:
            TeacherError: One cannot be reached, or refuses the key.
        """
        lists = [await self._list_models_of(server) for server in self._servers.all]
        return [name for name in lists[0] if all(name in others for others in lists[1:])]

    async def _list_models_of(self, server: Server) -> list[str]:
        import aiohttp

        assert self._session is not None, "open() comes before list_models()"
        url, timeout = _url(server.base_url, "/models"), aiohttp.ClientTimeout(total=_LIST_MODELS_TIMEOUT_S)
        try:
            async with self._session.get(url, proxy=server.proxy, allow_redirects=False, timeout=timeout) as response:
                body = (await response.read()).decode("utf-8", "replace")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._lost(error, server) from None
        listed = _parse(body)
        if response.status in (401, 403):
            raise await self._refused(Refusal(response.status, response.headers, body, listed), server)
        models = listed.get("data") if isinstance(listed, dict) else None
        return [str(model["id"]) for model in models or () if isinstance(model, dict) and "id" in model]

    async def open(self) -> None:
        """Opens the pool of connections. The engine bounds what is in flight; the pool does only where told to."""
        import aiohttp
        from multidict import CIMultiDict

        config = self._config
        headers = CIMultiDict({"Content-Type": "application/json", "User-Agent": "distill"})
        if config.api_key:
            headers["Authorization"] = f"Bearer {config.api_key.get_secret_value()}"
        headers.update({name: value.get_secret_value() for name, value in config.headers.items()})
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.max_concurrency or 0, keepalive_timeout=_KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=config.timeout_s, sock_connect=_CONNECT_TIMEOUT_S),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._losses = (aiohttp.ClientError, OSError, ValueError)
        for server in self._servers.all:
            server.proxy = _proxy_for(server.base_url)
            if server.proxy is None:
                server.connections = Connections(
                    _url(server.base_url, "/chat/completions"),
                    headers=headers,
                    timeout_s=config.timeout_s,
                    connect_timeout_s=_CONNECT_TIMEOUT_S,
                    keepalive_s=_KEEPALIVE_S,
                )

    async def close(self) -> None:
        """Closes the pool of connections."""
        if self._models is not None:
            self._models.cancel()
            self._models = None
        for server in self._servers.all:
            if server.connections is not None:
                server.connections.close()
                server.connections = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _shared(self, prompt: Prompt, sample: int) -> _Shared:
        """What every request with this system text and schema begins with: all but the row, its turns and its seed."""
        # By identity, since comparing 4 KB a row costs more than encoding the row. What is kept keeps its ids taken.
        place = (id(prompt.system), id(prompt.schema), sample)
        if (shared := self._heads.get(place)) is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            shared = self._heads[place] = _Shared(self._head(prompt, sample), prompt)
        return shared

    def _head(self, prompt: Prompt, sample: int) -> RequestHead:
        config = self._config
        payload: dict[str, Any] = {"model": config.model, "max_tokens": config.token_limit}
        if config.temperature is not None:
            payload["temperature"] = config.temperature
        if config.structured == "json_object":
            payload["response_format"] = {"type": "json_object"}
        elif config.structured != "none":
            schema = prompt.schema if config.structured == "json_schema" else _unbounded(prompt.schema)
            named = {"name": "answer", "strict": True, "schema": schema}
            payload["response_format"] = {"type": "json_schema", "json_schema": named}
        payload |= config.extra_body
        settings = _encoded({field: value for field, value in payload.items() if value is not None})
        messages = b',"messages":[{"role":"system","content":%b},{"role":"user","content":' % _encoded(prompt.system)
        return RequestHead(self.endpoint, settings[:-1] + messages, sample=sample, model=config.model)

    def _lost(self, error: Exception, server: Server) -> TeacherError:
        """What it means that no whole response came."""
        import aiohttp

        unsent = aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | NotConnectedError
        sent = not isinstance(error, unsent)
        if isinstance(error, aiohttp.ConnectionTimeoutError | ConnectTimedOutError):
            problem = f"no connection within {min(_CONNECT_TIMEOUT_S, self._config.timeout_s):g} s"
        elif isinstance(error, TimeoutError):
            limit = f"no whole answer within {self._config.timeout_s:g} s"
            do = "raise timeout_s, or lower max_tokens or max_concurrency"
            return TeacherTimeoutError(self._say(f"{limit}; {do}", server))
        elif isinstance(error, aiohttp.ClientPayloadError | CutOffError):
            problem = "the answer was cut off before its end"
        else:
            problem = f"the connection failed, got {one_line(str(error)) or type(error).__name__}"
        return ConnectionFailedError(self._say(f"{problem}; is the server up, and base_url right?", server), sent=sent)

    async def _refused(self, refusal: Refusal, server: Server) -> TeacherError:
        served = ""
        if refusal.status == 404:
            if self._models is None:
                self._models = asyncio.create_task(self._served_models(server))
            served = await asyncio.shield(self._models)
        return as_error(
            refusal,
            name=self.name,
            config=self._config,
            served=served,
            say=partial(self._say, server=server),
            answered=self._answered,
        )

    def say(self, problem: str) -> str:
        """Puts the teacher in front of a message, and takes secrets out."""
        return self._say(problem)

    async def _served_models(self, server: Server) -> str:
        """Names of the models that the server lists, empty where it lists none; asked once, for a message."""
        try:
            names = await self._list_models_of(server)
        except TeacherError:
            return ""
        return one_line(", ".join(names[:_MAX_MODELS_NAMED]) + (", …" if len(names) > _MAX_MODELS_NAMED else ""))

    def _say(self, problem: str, server: Server | None = None) -> str:
        for secret in self._secrets:
            problem = problem.replace(secret, "***")
        return f"teacher {self.name} ({server.endpoint if server else self.endpoint}): {problem}"


def endpoint_of(base_url: str) -> str:
    """The address in a request's key: no credentials, query, default port or final slash, host in lower case."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    netloc = f"[{host}]" if ":" in host else host
    if parts.port is not None and parts.port != _DEFAULT_PORTS.get(parts.scheme):
        netloc += f":{parts.port}"
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))


def _mapping(headers: list[tuple[str, str]]) -> Mapping[str, str]:
    from multidict import CIMultiDict

    return CIMultiDict(headers)


def _url(base_url: str, path: str) -> str:
    """The path goes before the query, which some gateways need (``?api-version=…``)."""
    parts = urlsplit(base_url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, parts.query, ""))


def _seed(seed: int, sample: int, user: str) -> int:
    """31 bits, which every server takes, by BLAKE2b."""
    text = f"{seed} {sample} {user}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4, person=b"distill-seed-1").digest(), "big") >> 1


def _unbounded(schema: Any) -> Any:
    """The schema without the keywords that not every strict mode knows (Azure's, of older models)."""
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


def _proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names. Found once: aiohttp's own ``trust_env`` would look for every request."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    return None if proxy_bypass(host) else getproxies().get(parts.scheme)


def _secrets_of(config: OpenAITeacherConfig) -> list[str]:
    """What no message may hold. A word of under four characters is no secret, and would garble every message."""
    values = [*config.headers.values(), *([config.api_key] if config.api_key else [])]
    words = {word for value in values for word in value.get_secret_value().split() if len(word) >= 4}
    return sorted(words, key=lambda word: (-len(word), word))


def _encoded(value: Any) -> bytes:
    return _ENCODE(value).encode("utf-8", "replace")


def _parse(body: str) -> Any:
    try:
        return from_json(body)  # in half the time of the standard library's, which knows more (lone surrogates)
    except ValueError:
        pass
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _first_choice(parsed: Any) -> tuple[dict[str, Any] | None, str]:
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return None, ""
    return message, str(choice.get("finish_reason"))


def _text_of(content: Any) -> str:
    """Content is a text, None, or a list of parts of which some are text."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _usage_of(parsed: Any) -> dict[str, Any]:
    usage = parsed.get("usage") if isinstance(parsed, dict) else None
    return usage if isinstance(usage, dict) else {}


def _count(usage: dict[str, Any], field: str) -> int | None:
    value = usage.get(field)
    return value if isinstance(value, int) else None


def _cost_usd(usage: dict[str, Any], price: PriceConfig | None) -> float | None:
    """Tokens by their prices; None where a price or a count is not known."""
    if price is None:
        return None
    fresh, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if fresh is None or written is None:
        return None
    details = usage.get("prompt_tokens_details")
    cached = (_count(details, "cached_tokens") or 0) if isinstance(details, dict) else 0
    cached_price = price.cached_input_usd_per_mtok
    if cached_price is None:
        cached_price = price.input_usd_per_mtok
    cost = (fresh - cached) * price.input_usd_per_mtok + cached * cached_price + written * price.output_usd_per_mtok
    return cost / 1e6
