"""What every reader of rows gives: batches of columns, with the place where each row stands."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from distill.labeling.errors import DataError

BATCH_ROWS = 20_000
"""Rows that are held in memory at a time."""
BATCH_CHARS = 16_000_000
"""A batch ends earlier where its text is longer than this."""

Wanted = Mapping[str, str]
"""Column in the source: the recipe keys that want it, for messages (``id, group``)."""
STRUCTURED = "data.gold as JSON"
"""The key that wants gold which is no single label: lists and objects in it stay JSON instead of becoming words."""


class Unreadable(NamedTuple):
    """A row that could not even be split into columns.

    Attributes:
        number: Line of the file, from 1 (row, where the source has no lines).
        kind: What is wrong, in one word: ``bad_json``, ``ragged_row``, ``undecodable`` …
        detail: What is wrong, in words.
        raw: The text as found, shortened.
    """

    number: int
    kind: str
    detail: str
    raw: str


@dataclass(frozen=True)
class RawBatch:
    """Rows as found.

    Attributes:
        source: File or data set, for messages.
        unit: What ``numbers`` count.
        numbers: Line or row of each row of ``columns``, from 1.
        columns: The wanted columns, of any type; one that no row of the batch has is absent.
        unreadable: Rows that are not in ``columns``.
        cleaned: Repairs made while reading, by kind.
        note: What a person should know of the source; empty where there is nothing.
    """

    source: str
    unit: str
    numbers: Sequence[int]
    columns: pl.DataFrame
    unreadable: Sequence[Unreadable] = ()
    cleaned: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def read(self) -> int:
        """Rows found, readable or not."""
        return len(self.numbers) + len(self.unreadable)


Batches = Iterator[RawBatch]


def require_columns(source: str, available: Collection[str], wanted: Wanted) -> None:
    """Checks that a source has every column that the recipe names.

    Args:
        source: What was read, for the message.
        available: Columns that it has.
        wanted: Columns by name, with the recipe's keys that want them.

    Raises:
        DataError: One message that lists all that are missing, each with the closest names that are there.
    """
    missing = [name for name in wanted if name not in available]
    if not missing:
        return
    lines = []
    for name in missing:
        close = closest(name, available)
        lines.append(f"  {name!r} (for {wanted[name]})" + (f"; did you mean {close!r}?" if close else ""))
    there = ", ".join(sorted(available)) or "none"
    raise DataError(
        f"{source}: {len(missing)} column(s) missing:\n"
        + "\n".join(lines)
        + f"\n  the columns there are: {there}"
        + "\n  rename in the recipe, or map names with data.columns: {ours: theirs}"
    )


def closest(name: str, available: Collection[str]) -> str | None:
    """The name that was probably meant, ignoring case; None where nothing is near."""
    folded = {candidate.casefold(): candidate for candidate in available}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return folded[found[0]] if found else None
