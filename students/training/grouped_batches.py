"""Batches that keep rows of a query together, for losses between them; the same on one process or several."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class GroupedBatches(Sampler[list[tuple[int, float]]]):
    """Shuffles each query's rows, cuts them into lists of a few, and deals the shuffled lists out to batches, whole.

    Each list goes to the batch with the fewest rows, so that batches are of nearly one size and every epoch has as many
    of them (the Trainer counts steps beforehand). Lengths are mixed: there is more padding than in
    :class:`distill.students.training.batches.LengthGroupedBatches`.

    Every process draws the same global batches from the seed and the epoch. A batch's lists are dealt out to processes
    whole too, the longest first, so that rows that are compared share a process. Shares are filled to one length with
    rows of factor 0, and every factor is scaled so that the mean over processes of ``sum(weight * factor * loss) /
    rows`` is the mean over the global batch's real rows.

    Args:
        groups: ``[N]``, the query of every row as a number.
        batch_size: Rows of a global batch; some have up to ``rows_together`` more.
        rows_together: Rows of a list, at most.
        seed: Seed of the order.
        processes: How many processes train together.
        process: Which of them this is.
    """

    def __init__(
        self,
        groups: np.ndarray,
        *,
        batch_size: int,
        rows_together: int,
        seed: int,
        processes: int = 1,
        process: int = 0,
    ) -> None:
        self._groups = np.asarray(groups)
        self._batch_size = batch_size
        self._rows_together = rows_together
        self._seed = seed
        self._processes = processes
        self._process = process
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self._groups) // self._batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        for lists in self._batches():
            shares = _dealt(sorted(lists, key=len, reverse=True), self._processes)
            own = [int(row) for part in shares[self._process] for row in part]
            longest = max(sum(map(len, share)) for share in shares)
            scale = longest * self._processes / sum(map(len, lists))
            yield [(row, scale) for row in own] + [(int(lists[0][0]), 0.0)] * (longest - len(own))

    def global_batches(self) -> list[np.ndarray]:
        """Row numbers of every batch of the current epoch."""
        return [np.concatenate(lists) for lists in self._batches()]

    def _batches(self) -> list[list[np.ndarray]]:
        """The lists of every batch; none is empty."""
        random = np.random.default_rng([self._seed, self.epoch])
        order = random.permutation(len(self._groups))
        order = order[np.argsort(self._groups[order], kind="stable")]
        starts = np.flatnonzero(np.diff(self._groups[order])) + 1
        cut = min(self._rows_together, self._batch_size)  # else there could be fewer lists than batches
        lists = [part[i : i + cut] for part in np.split(order, starts) for i in range(0, len(part), cut)]
        return _dealt([lists[i] for i in random.permutation(len(lists))], len(self))


def _dealt(lists: Sequence[np.ndarray], hands: int) -> list[list[np.ndarray]]:
    """Gives each list, in turn, to the hand with the fewest rows, the first of equals."""
    found: list[list[np.ndarray]] = [[] for _ in range(hands)]
    heap = [(0, number) for number in range(hands)]
    for part in lists:
        rows, number = heap[0]
        found[number].append(part)
        heapq.heapreplace(heap, (rows + len(part), number))
    return found
