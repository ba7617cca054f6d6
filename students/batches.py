"""Batches of rows of like length, the same on one process or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch.utils.data import Dataset, Sampler

from distill.students.network import Example

_BATCHES_SORTED_TOGETHER = 8
"""Rows are sorted by length within so many batches: most of the padding goes, most of the randomness stays."""


class Examples(Dataset[Example]):
    """Examples with the numbers that go with them.

    Args:
        examples: As the network read them.
        columns: From :meth:`distill.students.objective.Objective.columns`, ``[N, ...]`` each.
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


class LengthGroupedBatches(Sampler[list[tuple[int, float]]]):
    """Shuffles, sorts stretches of eight batches by length, cuts them, and shuffles the batches.

    Every process draws the same global batches from the seed and the epoch, and takes every ``processes``-th row of
    each, so that ``processes`` × its share is what one process would have trained on. A batch that does not divide is
    filled with rows of factor 0, and every factor is scaled so that the mean over processes of
    ``sum(weight * factor * loss) / rows`` is the mean over the global batch's real rows.

    Args:
        sizes: Length of every row.
        batch_size: Rows of a global batch; the last of an epoch may be smaller.
        seed: Seed of the order.
        processes: How many processes train together.
        process: Which of them this is.
    """

    def __init__(
        self, sizes: Sequence[int], *, batch_size: int, seed: int, processes: int = 1, process: int = 0
    ) -> None:
        self._sizes = np.asarray(sizes)
        self._batch_size = batch_size
        self._seed = seed
        self._processes = processes
        self._process = process
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self._sizes) // self._batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        for batch in self.global_batches():
            padded = -(-len(batch) // self._processes) * self._processes
            scale = padded / len(batch)
            filled = [(int(row), scale) for row in batch] + [(int(batch[0]), 0.0)] * (padded - len(batch))
            yield filled[self._process :: self._processes]

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
