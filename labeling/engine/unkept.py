"""Replies on their way into the ledger: given to it, and used only once they are durable."""

from __future__ import annotations

import asyncio
from collections import deque

from distill.labeling.engine.jobs import Errand
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.teacher import Reply, Request


class UnkeptReplies:
    """Replies of one teacher that the ledger has been given and has not yet committed, in the order in which they came.

    A kill loses these and what is in flight, nothing else. Commits have that order too, so the first is durable first.

    Args:
        ledger: Where they are kept.
        teacher: The teacher's name, which stands beside each reply.
        free: Whether nothing is paid for them, so that none needs keeping: each counts as durable at once.
    """

    def __init__(self, ledger: Ledger, *, teacher: str, free: bool) -> None:
        self._ledger = ledger
        self._teacher = teacher
        self._free = free
        self._replies: deque[tuple[Errand, asyncio.Future[Reply]]] = deque()
        self._came = asyncio.Event()

    def __len__(self) -> int:
        return len(self._replies)

    def add(self, errand: Errand, request: Request, reply: Reply) -> None:
        """Gives the ledger a reply that was bought just now.

        Args:
            errand: What it answers.
            request: What was sent.
            reply: What came back.

        Raises:
            LedgerError: An earlier commit failed, so that nothing further can be kept.
        """
        if self._free:
            kept: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            kept.set_result(reply)
        else:
            source = Source(request.endpoint, request.model, self._teacher)
            kept = self._ledger.put_soon(request.key, reply, source=source, pointers=errand.pointers)
        self._replies.append((errand, kept))
        self._came.set()

    async def first_durable(self) -> tuple[Errand, Reply]:
        """Waits until there is a reply and the earliest is durable, and takes it out.

        Raises:
            LedgerError: It could not be made durable.
        """
        while not self._replies:
            self._came.clear()
            await self._came.wait()
        errand, kept = self._replies[0]
        reply = await kept
        self._replies.popleft()
        return errand, reply

    def forsake(self) -> None:
        """Nobody waits any more; the ledger writes them all the same. One that failed has been told of already."""
        for _, kept in self._replies:
            if not kept.cancel() and not kept.cancelled():
                kept.exception()
