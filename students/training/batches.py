"""Batches of rows of like length, the same on one process or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset, Sampler

from distill.students.network import Example

_BATCHES_SORTED_TOGETHER = 8
"""Rows are sorted by length within so many batches: most of the padding goes, most of the randomness stays."""


class Examples(Dataset[Example]):
    """Examples with the numbers that go with them.

    Args:
        examples: As the network read them; may lie on disk.
        columns: From :meth:`distill.students.training.objective.Objective.columns`, ``[N, ...]`` each.
    """

    def __init__(self, examples: Sequence[Example], columns: Mapping[str, np.ndarray]) -> None:
        self.examples = examples
        self.columns = columns

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int | tuple[int, float]) -> Example:
        """One example; ``(index, factor)`` multiplies its weight by the factor."""
        number, factor = index if isinstance(index, tuple) else (index, 1.0)
        numbers = {name: values[number] for name, values in self.columns.items()}
        numbers["weight"] = numbers["weight"] * np.float32(factor)
        return {"example": self.examples[number], **numbers}


class Batches(Protocol):
    """An order of rows, cut into the batches of one process: numbers of rows, each with the factor of its weight.

    Attributes:
        epoch: From 0; set before each.
    """

    epoch: int

    def __len__(self) -> int:
        """Batches of an epoch, the same for every epoch: the Trainer counts steps beforehand."""
        ...

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        """The batches of the current epoch."""
        ...


class _SharedBatches(Sampler[list[tuple[int, float]]]):
    """Deals global batches out to processes.

    Every process draws the same global batches from the seed and the epoch, and takes every ``processes``-th row of
    each, so that ``processes`` × its share is what one process would have trained on. A batch that does not divide is
    filled with rows of factor 0, and every factor is scaled so that the mean over processes of
    ``sum(weight * factor * loss) / rows`` is the mean over the global batch's real rows.
    """

    def __init__(self, sizes: Sequence[int] | np.ndarray, *, seed: int, processes: int, process: int) -> None:
        self._sizes = np.asarray(sizes)
        self._seed = seed
        self._processes = processes
        self._process = process
        self.epoch = 0

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        for batch in self.global_batches():
            padded = -(-len(batch) // self._processes) * self._processes
            scale = padded / len(batch) * self._pull(batch)
            filled = [(int(row), scale) for row in batch] + [(int(batch[0]), 0.0)] * (padded - len(batch))
            yield filled[self._process :: self._processes]

    def global_batches(self) -> list[np.ndarray]:
        """Row numbers of every batch of the current epoch."""
        raise NotImplementedError

    def _pull(self, batch: np.ndarray) -> float:
        """Factor of a whole batch."""
        return 1.0


class LengthGroupedBatches(_SharedBatches):
    """Shuffles, sorts stretches of eight batches by length, cuts them, and shuffles the batches.

    See :class:`TokenBudgetBatches` for batches of as many tokens rather than of as many rows.

    Args:
        sizes: Length of every row.
        batch_size: Rows of a global batch; the last of an epoch may be smaller.
        seed: Seed of the order.
        processes: How many processes train together.
        process: Which of them this is.
    """

    def __init__(
        self,
        sizes: Sequence[int] | np.ndarray,
        *,
        batch_size: int,
        seed: int,
        processes: int = 1,
        process: int = 0,
    ) -> None:
        super().__init__(sizes, seed=seed, processes=processes, process=process)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._sizes) // self._batch_size)

    def global_batches(self) -> list[np.ndarray]:
        """Row numbers of every batch of the current epoch."""
        random = np.random.default_rng([self._seed, self.epoch])
        order = random.permutation(len(self._sizes))
        stretch = self._batch_size * _BATCHES_SORTED_TOGETHER
        batches = []
        for start in range(0, len(order), stretch):
            part = order[start : start + stretch]
            part = part[np.argsort(self._sizes[part], kind="stable")]
            batches += [part[i : i + self._batch_size] for i in range(0, len(part), self._batch_size)]
        return [batches[i] for i in random.permutation(len(batches))]


class TokenBudgetBatches(_SharedBatches):
    """Batches of like lengths that hold at most so many tokens, padding included: few long rows or many short ones.

    The rows are shuffled and cut into stretches of about eight batches, sorted by length within each, and filled up
    greedily. Epochs would differ by a few batches; the largest batches of an epoch are halved until it has as many as
    the longest one, since the Trainer counts steps beforehand.

    A batch's factor is its rows over the mean rows of a batch: a row then pulls as hard in a batch of short rows as
    in one of long rows, as it does where all batches have as many rows.

    Args:
        sizes: Tokens of every row.
        batch_tokens: Rows × the longest row of a global batch, at most; a longer row has a batch of its own.
        epochs: How many there will be.
        seed: Seed of the order.
        processes: How many processes train together.
        process: Which of them this is.
    """

    def __init__(
        self,
        sizes: Sequence[int] | np.ndarray,
        *,
        batch_tokens: int,
        epochs: int,
        seed: int,
        processes: int = 1,
        process: int = 0,
    ) -> None:
        super().__init__(sizes, seed=seed, processes=processes, process=process)
        self._budget = batch_tokens
        per_batch = max(1, int(batch_tokens / max(1.0, float(self._sizes.mean()))))
        self._stretch = per_batch * _BATCHES_SORTED_TOGETHER
        self._count = max(len(self._cut(epoch)) for epoch in range(epochs))

    def __len__(self) -> int:
        return self._count

    def global_batches(self) -> list[np.ndarray]:
        """Row numbers of every batch of the current epoch."""
        batches = self._cut(self.epoch)
        while len(batches) < self._count:
            largest = max(range(len(batches)), key=lambda number: len(batches[number]))
            batch = batches.pop(largest)
            batches += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        random = np.random.default_rng([self._seed, self.epoch, 1])
        return [batches[i] for i in random.permutation(len(batches))]

    def _pull(self, batch: np.ndarray) -> float:
        return len(batch) * self._count / len(self._sizes)

    def _cut(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._sizes))
        batches = []
        for begin in range(0, len(order), self._stretch):
            part = order[begin : begin + self._stretch]
            part = part[np.argsort(self._sizes[part], kind="stable")]
            sizes = self._sizes[part].tolist()
            start = 0
            for end, size in enumerate(sizes):
                # Sorted, so the newest row is the longest of the batch.
                if end > start and (end + 1 - start) * size > self._budget:
                    batches.append(part[start:end])
                    start = end
            batches.append(part[start:])
        return batches


class MicroBatches(Sampler[list[tuple[int, float]]]):
    """Steps whose share of a process is taken in several parts, one after the other (gradient accumulation).

    A part is a share like that of a process: with ``P`` processes and ``A`` parts there are ``P × A`` shares, and the
    mean of their losses is the loss of the whole batch. So ``A`` parts learn what one would, in less memory.

    Args:
        parts: The process's share of each part, all of the same global batches.
    """

    def __init__(self, parts: Sequence[Batches]) -> None:
        self._parts = parts

    @property
    def epoch(self) -> int:
        """From 0; set before each."""
        return self._parts[0].epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        for part in self._parts:
            part.epoch = value

    def __len__(self) -> int:
        return len(self._parts[0]) * len(self._parts)

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        for step in zip(*self._parts, strict=True):
            yield from step
