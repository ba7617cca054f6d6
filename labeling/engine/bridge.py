"""Runs an event loop beside the caller's thread, and lets it call back into that thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4
# A wait without an end does not always notice Ctrl-C (never on Windows, not always with CPython 3.11 on Linux).
_LISTEN_EVERY_S = 0.1


class Bridge:
    """Runs a coroutine to its end in a thread of its own while the caller waits.

    So it works the same inside a running loop (a notebook), callbacks happen in the caller's thread, and Ctrl-C reaches
    the caller at once.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def run(self, main: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Runs the coroutine.

        Ctrl-C cancels it, waits for it to tidy up, and is raised again. A second Ctrl-C does not wait.

        Raises:
            KeyboardInterrupt: As said.
            BaseException: Whatever the coroutine raises.
        """
        outcome: list[R] = []
        failure: list[BaseException] = []

        def run_loop() -> None:
            try:
                outcome.append(asyncio.run(self._main(main)))
            except BaseException as error:
                failure.append(error)
            finally:
                self._calls.put(None)

        thread = threading.Thread(target=run_loop, name="labeling", daemon=True)
        interrupt: KeyboardInterrupt | None = None
        thread.start()
        while True:
            try:
                call = self._calls.get(timeout=_LISTEN_EVERY_S)
                if call is None:
                    break
                call()
            except Empty:
                continue
            except KeyboardInterrupt as error:
                if interrupt is not None:
                    raise
                interrupt = error
                self._cancel()
        if interrupt is not None:
            raise interrupt
        if failure:
            raise failure[0]
        return outcome[0]

    def submit(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Has a function called in the caller's thread, after those submitted before.

        Returns:
            A future of what it returns or raises.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(value: T | None, error: Exception | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]

        def in_caller() -> None:
            value, failure = None, None
            try:
                value = function(*arguments)
            except Exception as error:
                failure = error
            except BaseException:  # Ctrl-C: nobody is to wait for what never comes
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(answer.cancel)
                raise
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(settle, value, failure)

        self._calls.put(in_caller)
        return answer

    async def _main(self, main: Callable[[], Coroutine[Any, Any, R]]) -> R:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._cancelled:  # before there was a task to cancel
            raise asyncio.CancelledError
        return await main()

    def _cancel(self) -> None:
        self._cancelled = True
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)


class Stream(Generic[T]):
    """Lets several readers go through one iterable, which is iterated in the caller's thread.

    An iterable that can be iterated afresh (a list, or an object whose ``__iter__`` starts over) is iterated by each
    reader at its own pace. A one-shot iterator is iterated once, and the fastest reader waits when it is a few items
    ahead of the slowest: nothing is ever held but those few.
    """

    def __init__(self, items: Iterable[T], *, readers: int, bridge: Bridge) -> None:
        self._items = items
        self._bridge = bridge
        first = iter(items)
        self._shared = first if first is items else None
        self._waiting: list[list[T]] = [[] for _ in range(readers)]
        self._moved = asyncio.Condition()
        self._ended = False

    async def read(self, reader: int) -> AsyncIterator[T]:
        """Yields every item to one of the readers, numbered from 0."""
        if self._shared is None:
            own = await self._bridge.submit(iter, self._items)
            while (found := await self._bridge.submit(_next, own)) is not None:
                yield found[0]
            return
        while (item := await self._take(self._waiting[reader])) is not None:
            yield item[0]

    async def _take(self, queue: list[T]) -> tuple[T] | None:
        """The next item of a reader's queue, once there is one; None at the end."""
        async with self._moved:
            while not queue and not self._ended:
                if max(map(len, self._waiting)) >= _AHEAD:
                    await self._moved.wait()
                else:
                    await self._go_on()
            if not queue:
                return None
            item = queue.pop(0)
            self._moved.notify_all()
        return (item,)

    async def _go_on(self) -> None:
        """Moves the shared iterator on by one item, which every reader gets."""
        assert self._shared is not None, "it has queues"
        found = await self._bridge.submit(_next, self._shared)
        if found is None:
            self._ended = True
        else:
            for queue in self._waiting:
                queue.append(found[0])
        self._moved.notify_all()


def _next(iterator: Iterator[T]) -> tuple[T] | None:
    # StopIteration cannot be raised into a future.
    for item in iterator:
        return (item,)
    return None
