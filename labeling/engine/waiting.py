"""What a lane has still to ask: single rows, and packs as they fill."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from distill.labeling.engine.jobs import Errand, Job, Pack
from distill.labeling.prompts.packs import Gatherer, Packing


class Waiting:
    """The queue of a lane.

    Args:
        packing: How rows are put together; None where they are not.
    """

    def __init__(self, packing: Packing | None) -> None:
        self._packing = packing
        self._gatherer: Gatherer[Job] | None = None if packing is None else packing.gatherer()
        self._queue: deque[Errand] = deque()

    def __len__(self) -> int:
        """Requests that may be sent now."""
        return len(self._queue)

    @property
    def rows(self) -> int:
        """How many rows the next request asks about."""
        return len(self._queue[0].members) if self._queue else 1

    def add(self, job: Job) -> list[Job]:
        """Takes a job.

        Returns:
            Jobs that found no company, to be asked about alone.
        """
        if self._gatherer is None or self._packing is None or job.row_key is None or job.alone:
            self._queue.append(job)
            return []
        company = self._packing.company(job.prompt, sample=job.request.sample)
        return self._pack(self._gatherer.add(job, company=company, row_id=job.prompt.row_id))

    def add_first(self, errand: Errand) -> None:
        """Takes what is to be asked before anything else."""
        self._queue.appendleft(errand)

    def take(self) -> Errand | None:
        """Gives the next one; None where there is none."""
        return self._queue.popleft() if self._queue else None

    def release(self) -> list[Job]:
        """Nobody comes any more: sends what waits for company.

        Returns:
            As :meth:`add`.
        """
        return [] if self._gatherer is None else self._pack(self._gatherer.release())

    def drain(self) -> list[Errand]:
        """Gives everything, also what waits for company."""
        waiting = [] if self._gatherer is None else self._gatherer.release()
        left: list[Errand] = [*self._queue, *(job for group in waiting for job in group)]
        self._queue.clear()
        return left

    def _pack(self, groups: Iterable[list[Job]]) -> list[Job]:
        alone: list[Job] = []
        for group in groups:
            if len(group) == 1:
                alone += group
            else:
                # By their keys, which are as good as drawn: a row's place hangs on nothing that could change its label.
                self._queue.append(Pack(tuple(sorted(group, key=lambda job: job.key))))
        return alone
