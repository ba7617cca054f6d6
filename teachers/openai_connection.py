"""The way to the servers of one model: which of them, over which connection, and what it means that none answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from distill.labeling.errors import ConnectionFailedError, TeacherError, TeacherTimeoutError
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.http_connections import (
    Connections,
    ConnectTimedOutError,
    CutOffError,
    NotConnectedError,
    Response,
)
from distill.teachers.json_body import parsed_json
from distill.teachers.openai_errors import Refusal, as_error, is_filtered, one_line
from distill.teachers.servers import Server, Servers

if TYPE_CHECKING:
    import aiohttp

CHAT = "/chat/completions"
_CONNECT_TIMEOUT_S = 10.0
_LIST_MODELS_TIMEOUT_S = 3.0
# Below the five seconds after which uvicorn (vLLM, SGLang) closes an idle connection: one reused as it closes is a lost
# request.
_KEEPALIVE_S = 4.0

_MAX_MODELS_NAMED = 8
_DEFAULT_PORTS = {"http": 80, "https": 443}
# A gateway that has nobody behind it, or a server that is going down: others may fare better.
_NOBODY_THERE = (502, 503, 504)


class Exchange(NamedTuple):
    """A request's answer, with a status that says that there is one.

    Attributes:
        body: The body as text.
        parsed: The body as JSON, None where it is none.
        latency_s: Seconds from sending to the whole answer.
        headers: Its headers, names in lower case.
    """

    body: str
    parsed: Any
    latency_s: float
    headers: dict[str, str]


Got = TypeVar("Got")
Send = Callable[[str, bytes], Awaitable[Exchange]]
"""Sends a body to a path of one server; see :meth:`OpenAIConnection.with_a_server`."""


class OpenAIConnection:
    """Connections to the servers of one model.

    Args:
        name: The teacher's name, for messages.
        config: Its section of the recipe.

    Attributes:
        endpoint: Who answers, as the ledger knows it.
        answered: Whether a server has answered a row. One that has does take the answer's schema.
    """

    def __init__(self, name: str, config: OpenAITeacherConfig) -> None:
        self.endpoint = config.endpoint or endpoint_of(config.base_urls[0])
        self.answered = False
        self._name = name
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._headers: Mapping[str, str] = {}
        self._servers = Servers([Server(url, endpoint_of(url)) for url in config.base_urls])
        self._losses: tuple[type[Exception], ...] = ()
        self._models: asyncio.Task[str] | None = None
        self._secrets = _secrets_of(config)

    async def with_a_server(self, prefix: str, exchange: Callable[[Send], Awaitable[Got]]) -> Got:
        """Has one server answer; another only where no connection was made to the first.

        Args:
            prefix: What the request has in common with others, by which servers are shared out.
            exchange: Asks, by what it is given, once or several times in turn.

        Raises:
            TeacherError: By kind, as in :mod:`distill.labeling.errors`; the message holds no secret.
        """
        unreached: list[Server] = []
        lost: ConnectionFailedError | None = None
        while (server := self._servers.pick(prefix, without=unreached)) is not None:
            server.in_flight += 1
            try:
                return await exchange(partial(self._send, server))
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

    async def _send(self, server: Server, path: str, body: bytes) -> Exchange:
        assert self._session is not None, "open() comes before ask()"
        started = time.perf_counter()
        try:
            if server.connections is None:
                response = await self._through_proxy(server, path, body)
            else:
                connections = server.connections.get(path) or self._connect(server.connections, server, path)
                response = await connections.post(body)
        except self._losses as error:
            raise self._lost(error, server) from None
        latency_s = time.perf_counter() - started
        text = response.body.decode("utf-8", "replace")
        parsed = parsed_json(text)
        if response.status in _NOBODY_THERE:
            self._servers.lost(server)
        else:
            self._servers.reached(server)
        if not 200 <= response.status < 300 and not is_filtered(parsed):
            raise await self._refused(Refusal(response.status, _mapping(response.headers), text, parsed), server)
        return Exchange(text, parsed, latency_s, dict(response.headers))

    def _connect(self, connections: dict[str, Connections], server: Server, path: str) -> Connections:
        connections[path] = Connections(
            url_of(server.base_url, path),
            headers=self._headers,
            timeout_s=self._config.timeout_s,
            connect_timeout_s=_CONNECT_TIMEOUT_S,
            keepalive_s=_KEEPALIVE_S,
        )
        return connections[path]

    async def _through_proxy(self, server: Server, path: str, body: bytes) -> Response:
        assert self._session is not None
        url = url_of(server.base_url, path)
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
        url, timeout = url_of(server.base_url, "/models"), aiohttp.ClientTimeout(total=_LIST_MODELS_TIMEOUT_S)
        try:
            async with self._session.get(url, proxy=server.proxy, allow_redirects=False, timeout=timeout) as response:
                body = (await response.read()).decode("utf-8", "replace")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._lost(error, server) from None
        listed = parsed_json(body)
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
        self._headers = headers
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.max_concurrency or 0, keepalive_timeout=_KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=config.timeout_s, sock_connect=_CONNECT_TIMEOUT_S),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._losses = (aiohttp.ClientError, OSError, ValueError)
        for server in self._servers.all:
            server.proxy = _proxy_for(server.base_url)
            server.connections = {} if server.proxy is None else None

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
            async with self._session.request(method, url_of(server.base_url, path), **options) as response:
                yield response
        except self._losses as error:
            raise self._lost(error, server) from None

    async def refused(self, refusal: Refusal) -> TeacherError:
        """The error that a status other than 200 of the first server means."""
        return await self._refused(refusal, self._servers.all[0])

    def serve_from(self, base_urls: Sequence[str]) -> None:
        """Takes other servers than the section's, of the same model; before it is opened."""
        self._servers = Servers([Server(url, endpoint_of(url)) for url in base_urls])

    async def close(self) -> None:
        """Closes the pool of connections."""
        if self._models is not None:
            self._models.cancel()
            self._models = None
        for server in self._servers.all:
            for connections in (server.connections or {}).values():
                connections.close()
            server.connections = None
        if self._session is not None:
            await self._session.close()
            self._session = None

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
            return TeacherTimeoutError(self._say_of(server, f"{limit}; {do}"))
        elif isinstance(error, aiohttp.ClientPayloadError | CutOffError):
            problem = "the answer was cut off before its end"
        else:
            problem = f"the connection failed, got {one_line(str(error)) or type(error).__name__}"
        return ConnectionFailedError(
            self._say_of(server, f"{problem}; is the server up, and base_url right?"), sent=sent
        )

    async def _refused(self, refusal: Refusal, server: Server) -> TeacherError:
        served = ""
        if refusal.status == 404:
            if self._models is None:
                self._models = asyncio.create_task(self._served_models(server))
            served = await asyncio.shield(self._models)
        return as_error(
            refusal,
            name=self._name,
            config=self._config,
            served=served,
            say=partial(self._say_of, server),
            answered=self.answered,
        )

    async def _served_models(self, server: Server) -> str:
        """Names of the models that the server lists, empty where it lists none; asked once, for a message."""
        try:
            names = await self._list_models_of(server)
        except TeacherError:
            return ""
        return one_line(", ".join(names[:_MAX_MODELS_NAMED]) + (", …" if len(names) > _MAX_MODELS_NAMED else ""))

    def say(self, problem: str) -> str:
        """A message with the teacher in front of it, and without secrets."""
        return self._named(problem, self.endpoint)

    def _say_of(self, server: Server, problem: str) -> str:
        return self._named(problem, server.endpoint)

    def _named(self, problem: str, endpoint: str) -> str:
        for secret in self._secrets:
            problem = problem.replace(secret, "***")
        return f"teacher {self._name} ({endpoint}): {problem}"


def endpoint_of(base_url: str) -> str:
    """The address in a request's key: no credentials, query, default port or final slash, host in lower case."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    netloc = f"[{host}]" if ":" in host else host
    if parts.port is not None and parts.port != _DEFAULT_PORTS.get(parts.scheme):
        netloc += f":{parts.port}"
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))


def url_of(base_url: str, path: str) -> str:
    """The address of a path: below the base address, or beside it where it begins with ``/../``.

    The path goes before the query, which some gateways need (``?api-version=…``). What stands beside ``/v1`` (vLLM's
    ``/tokenize``) stands at the base itself where that does not end in ``/v1``.
    """
    parts = urlsplit(base_url)
    base = parts.path.rstrip("/")
    if path.startswith("/../"):
        base, path = base.removesuffix("/v1"), path.removeprefix("/..")
    return urlunsplit((parts.scheme, parts.netloc, base + path, parts.query, ""))


def _mapping(headers: list[tuple[str, str]]) -> Mapping[str, str]:
    from multidict import CIMultiDict

    return CIMultiDict(headers)


def _proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names. Found once: aiohttp's own ``trust_env`` would look for every request."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    # A proxy's loopback interface is another one.
    return None if _is_loopback(host) or proxy_bypass(host) else getproxies().get(parts.scheme)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secrets_of(config: OpenAITeacherConfig) -> list[str]:
    """What no message may hold. A word of under four characters is no secret, and would garble every message."""
    values = [*config.headers.values(), *([config.api_key] if config.api_key else [])]
    words = {word for value in values for word in value.get_secret_value().split() if len(word) >= 4}
    return sorted(words, key=lambda word: (-len(word), word))
