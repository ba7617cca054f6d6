"""Responses as servers write them, in pieces as networks deliver them."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.teachers.http_connections import Connections, CutOffError, NotConnectedError, Response, _Connection

BODY = b'{"choices": [{"message": {"content": "\xed\x95\x9c"}}]}'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def plain(body: bytes = BODY, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    head = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int, end: bytes = b"0\r\n\r\n") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return CHUNKED + b"".join(b"%x;note=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


WHOLE = {
    "length": plain(),
    "length 0": plain(b""),
    "chunks": chunked(BODY, 7),
    "one chunk and trailers": chunked(BODY, 999, b"0\r\nX-Trailer: a\r\nX-Other: b\r\n\r\n"),
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + plain(),
    "gzip": plain(gzip.compress(BODY), b"Content-Encoding: gzip"),
    "deflate": plain(zlib.compress(BODY), b"content-encoding: Deflate"),
    "no reason": plain(status=b"200"),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an error": plain(BODY, b"Retry-After: 7", status=b"429 Too Many Requests"),
}


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True


def receive(pieces: list[bytes], *, then_closed: bool = False) -> tuple[Response, _Connection, FakeTransport]:
    """What a connection makes of pieces of a response."""

    async def main() -> tuple[Response, _Connection, FakeTransport]:
        connection, transport = _Connection(), FakeTransport()
        connection.connection_made(transport)
        answer = connection.send(b"POST")
        for piece in pieces:
            connection.data_received(piece)
        if then_closed:
            connection.connection_lost(None)
        assert answer.done()
        return answer.result(), connection, transport

    return asyncio.run(main())


@settings(deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_it_does_not_matter_where_a_response_is_cut(name: str, data: st.DataObject) -> None:
    whole = WHOLE[name]
    cuts = sorted({0, len(whole), *data.draw(st.lists(st.integers(0, len(whole)), max_size=12))})
    pieces = [whole[start:end] for start, end in itertools.pairwise(cuts)]
    response, connection, transport = receive(pieces)
    assert response.body == (b"" if name in ("length 0", "no content") else BODY)
    assert response.status == {"an error": 429, "no content": 204}.get(name, 200)
    assert connection.reusable
    assert not transport.aborted
    if name == "an error":
        assert ("retry-after", "7") in response.headers


@pytest.mark.parametrize("name", ["length", "chunks", "gzip"])
def test_every_byte_alone(name: str) -> None:
    assert receive([bytes([byte]) for byte in WHOLE[name]])[0].body == BODY


def test_without_a_length_the_end_of_the_connection_ends_the_body() -> None:
    response, connection, _ = receive([b"HTTP/1.1 200 OK\r\n\r\n" + BODY[:9], BODY[9:]], then_closed=True)
    assert response.body == BODY
    assert not connection.reusable


@pytest.mark.parametrize(
    "whole",
    [
        plain(BODY, b"Connection: close"),
        plain().replace(b"HTTP/1.1", b"HTTP/1.0"),
        plain() + b"HTTP/1.1 200 OK",  # bytes that nobody asked for
    ],
)
def test_connections_that_are_not_used_again(whole: bytes) -> None:
    response, connection, transport = receive([whole])
    assert response.body == BODY
    assert not connection.reusable
    assert transport.aborted


@pytest.mark.parametrize(
    "whole",
    [
        b"<html>no HTTP at all",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: br\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"2\r\nabcd\r\n",
        CHUNKED + b"1" * 5000,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
        plain(b"not gzip", b"Content-Encoding: gzip"),
        plain(BODY, b"Content-Encoding: br"),
    ],
)
def test_what_is_no_response_is_an_error_and_the_connection_ends(whole: bytes) -> None:
    with pytest.raises(ValueError, match=r"HTTP/1.1|Content|Transfer|chunk"):
        receive([whole])


@pytest.mark.parametrize("cut", [5, 40, len(plain()) - 1])
def test_a_response_that_ends_early_is_cut_off(cut: int) -> None:
    with pytest.raises(CutOffError):
        receive([plain()[:cut]], then_closed=True)
    with pytest.raises(ConnectionResetError):
        receive([], then_closed=True)


def talk(serve: Callable[[Any, Any], Any], posts: Callable[[Connections], Any], **settings: float) -> Any:
    """Runs a server on this machine, and what is to be asked of it."""

    async def main() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/a b?c=d"
        times = {"timeout_s": 5.0, "connect_timeout_s": 5.0, "keepalive_s": 4.0, **settings}
        connections = Connections(address, headers={"X-Key": "k"}, **times)
        try:
            return await posts(connections)
        finally:
            connections.close()
            server.close()

    return asyncio.run(main())


def test_connections_are_used_again_and_requests_are_as_they_should_be() -> None:
    opened, requests = [], []

    async def serve(reader: Any, writer: Any) -> None:
        opened.append(writer)
        while head := await reader.read(1000):
            requests.append(head)
            writer.write(plain())

    async def posts(connections: Connections) -> None:
        for _ in range(5):
            assert (await connections.post(b"{}")).body == BODY
        await asyncio.gather(*(connections.post(b"{}") for _ in range(3)))

    talk(serve, posts)
    assert len(requests) == 8
    assert len(opened) == 3
    line, *headers = requests[0].removesuffix(b"\r\n\r\n{}").decode().split("\r\n")
    assert line == "POST /v1/a%20b?c=d HTTP/1.1"
    assert headers[0].startswith("Host: 127.0.0.1:")
    assert headers[1:] == ["Accept-Encoding: identity", "X-Key: k", "Content-Length: 2"]


def test_a_connection_that_the_server_closed_while_idle_is_not_used() -> None:
    async def serve(reader: Any, writer: Any) -> None:
        await reader.read(1000)
        writer.write(plain())
        writer.close()

    async def posts(connections: Connections) -> list[int]:
        statuses = []
        for _ in range(3):
            statuses.append((await connections.post(b"{}")).status)
            await asyncio.sleep(0.005)  # the end of the connection comes after the response
        return statuses

    assert talk(serve, posts) == [200, 200, 200]


def test_waiting_ends_in_time_and_what_is_late_disturbs_nobody() -> None:
    served = []

    async def serve(reader: Any, writer: Any) -> None:
        await reader.read(1000)
        served.append(1)
        if len(served) == 1:
            await asyncio.sleep(0.04)
        writer.write(plain(b"%d" % len(served)))

    async def posts(connections: Connections) -> bytes:
        with pytest.raises(TimeoutError):
            await connections.post(b"{}")
        connections._timeout_s = 5.0
        cancelled = asyncio.ensure_future(connections.post(b"{}"))
        await asyncio.sleep(0)
        cancelled.cancel()
        return (await connections.post(b"{}")).body

    assert talk(serve, posts, timeout_s=0.02) in (b"2", b"3")


def test_nobody_listening_is_told_from_a_lost_request() -> None:
    async def main() -> None:
        connections = Connections(
            "http://127.0.0.1:1/v1", headers={}, timeout_s=5.0, connect_timeout_s=5.0, keepalive_s=4.0
        )
        with pytest.raises(NotConnectedError, match=r"Connect call failed|refused"):
            await connections.post(b"{}")

    asyncio.run(main())
