"""HTTP/1.1 POST over connections that are kept open, for one address.

A request through aiohttp's client costs 100 µs of CPU, of which the network needs 20 (measured on CPython 3.11): at a
few thousand requests a second, that is what limits a labeling run. This does only what asking a teacher needs, on
asyncio's own transports and TLS: one address, one method, whole bodies, no redirects, no cookies, no proxies (a teacher
behind one goes through aiohttp).
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from typing import NamedTuple

_MAX_HEAD_BYTES = 65_536
_MAX_LINE_BYTES = 4_096


class NotConnectedError(OSError):
    """No connection was made: nothing has been sent."""


class ConnectTimedOutError(NotConnectedError):
    """No connection in time."""


class CutOffError(OSError):
    """The connection ended within a response."""


class Response(NamedTuple):
    """A whole response.

    Attributes:
        status: HTTP status.
        headers: Pairs of name (in lower case) and value, as they came.
        body: The body, without transfer and content codings.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Connections:
    """Open connections to one address.

    Args:
        url: Where requests go.
        headers: Sent with every request.
        timeout_s: Seconds from sending to the whole response.
        connect_timeout_s: Seconds for a new connection.
        keepalive_s: Seconds after which an idle connection is not used again.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str], timeout_s: float, connect_timeout_s: float, keepalive_s: float
    ) -> None:
        from yarl import URL

        address = URL(url)
        self._host, self._port = address.raw_host or "", address.port or 80
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._timeout_s = timeout_s
        self._connect_timeout_s = min(connect_timeout_s, timeout_s)
        self._keepalive_s = keepalive_s
        self._idle: list[_Connection] = []
        host = f"[{self._host}]" if ":" in self._host else self._host
        default = address.is_default_port()
        lines = [f"POST {address.raw_path_qs} HTTP/1.1", f"Host: {host if default else f'{host}:{self._port}'}"]
        lines += [f"{name}: {value}" for name, value in {"Accept-Encoding": "identity", **headers}.items()]
        self._head = "\r\n".join([*lines, "Content-Length: "]).encode()

    async def post(self, body: bytes) -> Response:
        """Sends a body and waits for the whole response.

        Raises:
            ConnectTimedOutError: No connection in time.
            TimeoutError: No whole response in time.
            CutOffError: The connection ended within the response.
            NotConnectedError: It could not be made.
            OSError: It ended before the response.
            ValueError: What came is no HTTP/1.1.
        """
        loop = asyncio.get_running_loop()
        connection = self._idle_one(loop.time()) or await self._connect(loop)
        expiry = loop.call_later(self._timeout_s, connection.expire)
        try:
            response = await connection.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        except BaseException:
            connection.abort()
            raise
        finally:
            expiry.cancel()
        if connection.reusable:
            connection.idle_since_s = loop.time()
            self._idle.append(connection)
        return response

    def close(self) -> None:
        """Closes what is idle; what is in use is closed by those who wait for it."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def _idle_one(self, now_s: float) -> _Connection | None:
        # The one used last is the least likely to have been closed at the other end.
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and now_s - connection.idle_since_s < self._keepalive_s:
                return connection
            connection.abort()
        return None

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    _Connection, self._host, self._port, ssl=self._tls, happy_eyeballs_delay=0.25
                )
        except TimeoutError as error:
            raise ConnectTimedOutError("no connection in time") from error
        except OSError as error:
            raise NotConnectedError(*error.args) from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self) -> None:
        self.reusable = True
        self.idle_since_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._received = bytearray()
        self._head: _Head | None = None
        self._chunks = _Chunks()

    def send(self, message: bytes) -> asyncio.Future[Response]:
        """Sends a request; the future is done when its whole response is there."""
        assert self._transport is not None
        self._head, self._chunks = None, _Chunks()
        answer = self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return answer

    def abort(self) -> None:
        """Ends the connection at once."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """Gives up waiting for the response."""
        self._fail(TimeoutError("no whole response in time"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's: the connection is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio's: some bytes came."""
        if self._answer is None or self._answer.done():
            self.abort()  # nobody asked
            return
        self._received += data
        self._advance(ended=False)

    def connection_lost(self, error: Exception | None) -> None:
        """Asyncio's: the connection has ended."""
        self.reusable = False
        if self._answer is None or self._answer.done():
            return
        begun = self._head is not None or bool(self._received)
        if self._head is not None and error is None:
            self._advance(ended=True)
        self._fail(CutOffError("cut off") if begun else error or ConnectionResetError("the server closed it"))

    def _advance(self, *, ended: bool) -> None:
        try:
            if self._head is None:
                self._head = _take_head(self._received)
            if self._head is None or (body := self._body(self._head, ended=ended)) is None:
                return
            response = Response(self._head.status, self._head.headers, _decoded(body, self._head.encoding))
        except ValueError as error:
            self._fail(error)
            return
        if self._received or ended or not self._head.keeps_alive:  # further bytes belong to no request
            self.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(response)

    def _body(self, head: _Head, *, ended: bool) -> bytes | None:
        """Takes the body out of what has been received; None where it is not whole yet."""
        if head.status in (204, 304):
            return b""
        if head.chunked:
            return self._chunks.take(self._received)
        if head.length is None and not ended:
            return None
        length = len(self._received) if head.length is None else head.length
        if len(self._received) < length:
            return None
        body = bytes(self._received[:length])
        del self._received[:length]
        return body

    def _fail(self, error: Exception) -> None:
        self.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class _Head(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    length: int | None
    chunked: bool
    encoding: str
    keeps_alive: bool


def _take_head(received: bytearray) -> _Head | None:
    """Takes status line and headers out of what has been received, interim responses (1xx) left out."""
    while (end := received.find(b"\r\n\r\n")) >= 0:
        lines = received[:end].decode("latin-1").split("\r\n")
        del received[: end + 4]
        version, _, rest = lines[0].partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdecimal():
            raise ValueError(f"no HTTP/1.1, got {lines[0][:80]!r}")
        if not 100 <= (status := int(rest[:3])) < 200:
            return _read_head(status, version, lines[1:])
    if len(received) > _MAX_HEAD_BYTES or (received and not b"HTTP/1.".startswith(received[:7])):
        raise ValueError(f"no HTTP/1.1, got {bytes(received[:80])!r}")
    return None


def _read_head(status: int, version: str, lines: list[str]) -> _Head:
    headers, length, codings, encoding, connection = [], None, "", "", ""
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        headers.append((name, value))
        if name == "content-length":
            if not value.isdecimal() or (length is not None and length != int(value)):
                raise ValueError(f"Content-Length: {value[:80]!r}")
            length = int(value)
        elif name == "transfer-encoding":
            codings = value.lower()
        elif name == "content-encoding":
            encoding = value.lower()
        elif name == "connection":
            connection = value.lower()
    if codings not in ("", "chunked", "identity"):
        raise ValueError(f"Transfer-Encoding: {codings[:80]!r}")
    keeps_alive = "close" not in connection and (version == "HTTP/1.1" or "keep-alive" in connection)
    return _Head(status, headers, length, codings == "chunked", encoding, keeps_alive)


class _Chunks:
    """Takes a chunked body (RFC 9112 §7.1) apart as it comes. Trailers are dropped."""

    def __init__(self) -> None:
        self._body = bytearray()
        self._ending = False

    def take(self, received: bytearray) -> bytes | None:
        """Takes whole chunks out of what has been received; the body once its end is there."""
        while (end := received.find(b"\r\n")) >= 0:
            if self._ending:
                del received[: end + 2]
                if end == 0:
                    return bytes(self._body)
                continue
            digits = bytes(received[:end]).partition(b";")[0].strip()
            if not digits or digits.strip(b"0123456789abcdefABCDEF"):
                raise ValueError(f"size of a chunk: {digits[:80]!r}")
            size = int(digits, 16)
            if size == 0:
                self._ending = True
                del received[: end + 2]
                continue
            if len(received) < end + size + 4:
                return None
            if received[end + 2 + size : end + size + 4] != b"\r\n":
                raise ValueError("a chunk is longer than it says")
            self._body += received[end + 2 : end + 2 + size]
            del received[: end + size + 4]
        if len(received) > _MAX_LINE_BYTES:
            raise ValueError("size of a chunk: no end")
        return None


def _decoded(body: bytes, encoding: str) -> bytes:
    """Undoes a content coding, which some gateways apply although none was asked for."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"Content-Encoding: {encoding[:80]!r}")
    try:
        return zlib.decompress(body, 47)  # 32 + 15: gzip or zlib by its header
    except zlib.error as error:
        raise ValueError(f"Content-Encoding: {encoding}, but {error}") from None
