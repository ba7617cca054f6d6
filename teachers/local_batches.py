"""Rows gathered into batches for a model that runs in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class LocalBatches(Generic[Item, Result]):
    """Answers single questions, asked at the same time, in batches in one thread.

    A batch goes as soon as the thread is free, with whatever has gathered. Where a batch fails as a whole its items are
    tried one by one, so that only the bad ones fail.

    Args:
        work: Takes a batch, gives a result for each item in order. Runs in a thread of its own, one call at a time.
        most: The most items of a batch.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]], *, most: int) -> None:
        self._work = work
        self._most = most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local-batches")
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """The result of one item."""
        waiter: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, waiter))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await waiter

    async def close(self) -> None:
        """Ends the thread; whoever still waits is cancelled."""
        if self._running is not None:
            self._running.cancel()
        for _, waiter in self._waiting:
            waiter.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        await asyncio.sleep(0)  # whoever asks in the same turn of the loop comes along
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            for (_, waiter), result in zip(batch, await self._results([item for item, _ in batch]), strict=True):
                if waiter.done():
                    continue
                if isinstance(result, Exception):
                    waiter.set_exception(result)
                else:
                    waiter.set_result(result)

    async def _results(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._work, items)
        except Exception as error:
            if len(items) == 1:
                return [error]
        return [result for item in items for result in await self._results([item])]
