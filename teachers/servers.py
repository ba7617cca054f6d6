"""Several servers of one model: which of them gets a request."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.teachers.http_connections import Connections

# How far above the mean load a server may go for the sake of its prefixes.
_OVERLOAD = 1.25
_FIRST_REST_S = 1.0
_LONGEST_REST_S = 60.0
_PREFIXES_REMEMBERED = 4096


@dataclass(slots=True, eq=False)
class Server:
    """One server.

    Attributes:
        base_url: Its address, as in the recipe.
        endpoint: The same without credentials and query, for messages.
        proxy: Through which proxy, None for none; set when the teacher is opened.
        connections: Its open connections by path; None before it is opened and behind a proxy.
        in_flight: Requests that it is answering now.
        failures: How often it could not be reached since it last answered.
        resting_until_s: When it is tried again, by the clock.
    """

    base_url: str
    endpoint: str
    proxy: str | None = None
    connections: dict[str, Connections] | None = None
    in_flight: int = 0
    failures: int = 0
    resting_until_s: float = 0.0


class Servers:
    """Shares requests out over servers of one model.

    Requests with one prefix (the rows of one query) prefer one server, so that its prefix cache holds what they have in
    common: rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998), which
    moves only the prefixes of a server that comes or goes. No server is given more than 1.25 of the mean load for it
    (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", arXiv:1608.01350): the next in the
    prefix's order takes what is above. Without a prefix the one with the least in flight is taken.

    A server that cannot be reached rests for a second, twice as long each further time, up to a minute; then one
    request tries it.

    Args:
        servers: At least one.
        clock: Seconds, ever rising.
    """

    def __init__(self, servers: Sequence[Server], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.all = tuple(servers)
        self._clock = clock
        self._ranked = lru_cache(maxsize=_PREFIXES_REMEMBERED)(self._rank)

    def pick(self, prefix: str = "", *, without: Collection[Server] = ()) -> Server | None:
        """The server for a request; None where every one is left out.

        Args:
            prefix: What the request has in common with others.
            without: Servers that this request has failed to reach.
        """
        if len(self.all) == 1:
            return None if without else self.all[0]
        now_s = self._clock()
        left = [server for server in self._ranked(prefix) if server not in without]
        usable = [server for server in left if self._usable(server, now_s)]
        if not usable:
            # All are resting: better to try the one that has rested longest than to fail unasked.
            return min(left, key=lambda server: server.resting_until_s, default=None)
        if not prefix:
            return min(usable, key=lambda server: server.in_flight)
        bound = math.ceil(_OVERLOAD * (sum(server.in_flight for server in usable) + 1) / len(usable))
        return next(server for server in usable if server.in_flight < bound)

    def reached(self, server: Server) -> None:
        """Notes that a server answered, whatever it said."""
        server.failures, server.resting_until_s = 0, 0.0

    def lost(self, server: Server) -> None:
        """Notes that a server could not be reached, or has nobody behind it."""
        now_s = self._clock()
        if now_s >= server.resting_until_s:  # else it is one of a burst that has been counted
            server.resting_until_s = now_s + min(_LONGEST_REST_S, _FIRST_REST_S * 2.0**server.failures)
            server.failures += 1

    def _usable(self, server: Server, now_s: float) -> bool:
        return now_s >= server.resting_until_s and (server.failures == 0 or server.in_flight == 0)

    def _rank(self, prefix: str) -> tuple[Server, ...]:
        if not prefix:
            return self.all
        return tuple(sorted(self.all, key=lambda server: _weight(prefix, server.endpoint), reverse=True))


def _weight(prefix: str, endpoint: str) -> bytes:
    return hashlib.blake2b(f"{endpoint} {prefix}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
