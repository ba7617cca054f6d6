"""Readings of a query as numbers of an example, and as tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distill.students.network import Example
from distill.students.queries.readings import NUMBERS, Readings, written

if TYPE_CHECKING:
    from torch import Tensor


def reading_pieces(
    readings: Readings, query: str, example: Example, *, second: Sequence[tuple[int, int]]
) -> np.ndarray:
    """``[T, 2 * (1 + most)]``: which pieces each reading would change, and which are what it writes.

    The query as typed has all of its own pieces, and writes none.

    Args:
        readings: What is chosen among.
        query: As typed.
        example: With ``starts`` and ``ends`` of the query's pieces.
        second: Of each piece its characters in the second segment, which begins with what readings write; empty
            elsewhere.
    """
    count = 1 + readings.most
    starts, ends = np.array(example["starts"]), np.array(example["ends"])
    others = np.array(second).reshape(-1, 2)
    table = np.zeros((len(starts), 2 * count), dtype=np.int8)
    table[:, 0] = starts >= 0
    found = readings.of(query)
    for line, (one, (start, end)) in enumerate(zip(found, written(found)[1], strict=True), start=1):
        for change in one.changes:
            table[:, line] |= (starts >= 0) & (starts < change.end) & (ends > change.start)
        table[:, count + line] = (others[:, 1] > others[:, 0]) & (others[:, 0] < end) & (others[:, 1] > start)
    return table


def padded_readings(examples: Sequence[Example]) -> dict[str, Tensor]:
    """``reading_pieces`` ``[B, T, 2 * readings]`` and ``reading_numbers`` ``[B, readings, F]``, float32."""
    import torch

    lengths = [len(example["input_ids"]) for example in examples]
    pieces = [example["reading_pieces"].reshape(length, -1) for example, length in zip(examples, lengths, strict=True)]
    table = np.zeros((len(examples), max(lengths), pieces[0].shape[1]), dtype=np.float32)
    for line, own in enumerate(pieces):
        table[line, : len(own)] = own
    numbers = np.stack([example["reading_numbers"].reshape(-1, len(NUMBERS)) for example in examples])
    return {"reading_pieces": torch.from_numpy(table), "reading_numbers": torch.from_numpy(numbers)}
