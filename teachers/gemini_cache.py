"""The instruction and guideline kept at the provider: one cached content for all rows that share a system text."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from distill.teachers.gemini_client import GeminiClient, RefusedError, as_failure

_log = logging.getLogger(__name__)

# Made anew so long before the provider lets it go: what is in flight by then still finds it.
_MARGIN_S = 30.0
_TRY_AGAIN_S = 300.0
# Contents that are refused as soon as they are made would otherwise be made, and paid for, once a row.
_MOST_LOSSES = 3


class _Kept(NamedTuple):
    name: str | None
    until_s: float


class PrefixCache:
    """Cached contents, one a system text, made when the first row asks for it and deleted at the end.

    The cache decides what a row costs, never what is answered: a row is asked without it wherever it cannot be had.

    Args:
        client: Makes them.
        model: The model that they are for.
        ttl_s: Seconds for which the provider keeps them.
        say: Puts the teacher in front of a message for the log, and takes secrets out.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        client: GeminiClient,
        *,
        model: str,
        ttl_s: int,
        say: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._model = model
        self._ttl_s = ttl_s
        self._say = say
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._making: dict[str, asyncio.Task[_Kept]] = {}
        self._names: set[str] = set()
        self._losses = 0

    async def name_for(self, system: str) -> str | None:
        """The cached content of a system text, made or made anew where need be; None where there can be none."""
        kept = self._kept.get(system)
        if kept is not None and self._clock() < kept.until_s:
            return kept.name
        if (making := self._making.get(system)) is None:
            making = self._making[system] = asyncio.create_task(self._make(system))
        return (await asyncio.shield(making)).name

    def forget(self, system: str, name: str) -> None:
        """Notes that the provider has it no more; the next row has it made anew, unless that has happened thrice."""
        if (kept := self._kept.get(system)) is None or kept.name != name:
            return
        del self._kept[system]
        self._losses += 1
        if self._losses >= _MOST_LOSSES:
            self._kept[system] = _Kept(None, math.inf)
            _log.warning(self._say(f"the guideline was lost {_MOST_LOSSES} times; rows are asked with it in full"))

    async def close(self) -> None:
        """Deletes what was made: kept contents are paid for by the hour."""
        for making in self._making.values():
            making.cancel()
        names, self._names = self._names, set()
        for name in names:
            with suppress(Exception):  # it goes by itself when its time is over
                await self._client.aio.caches.delete(name=name)

    async def _make(self, system: str) -> _Kept:
        kept = self._kept[system] = await self._made(system)
        del self._making[system]
        return kept

    async def _made(self, system: str) -> _Kept:
        began_s = self._clock()
        try:
            made = await self._client.aio.caches.create(
                model=self._model,
                config={"system_instruction": system, "ttl": f"{self._ttl_s}s", "display_name": "distill guideline"},
            )
        except Exception as error:
            return self._without(as_failure(error))
        self._names.add(made.name)
        return _Kept(made.name, began_s + max(self._ttl_s - _MARGIN_S, self._ttl_s / 2))

    def _without(self, failure: Exception) -> _Kept:
        """Rows go without: for good where the provider refuses it, for a while where it is in trouble."""
        for_good = isinstance(failure, RefusedError) and failure.refusal.status in (400, 404)
        span = "not kept at the provider" if for_good else f"not kept for the next {_TRY_AGAIN_S:g} s"
        told = failure.refusal.told if isinstance(failure, RefusedError) else type(failure).__name__
        _log.warning(self._say(f"the guideline is {span}, got {told}; rows are asked with it in full"))
        return _Kept(None, math.inf if for_good else self._clock() + _TRY_AGAIN_S)
