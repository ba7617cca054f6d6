"""What must be known of all rows at once: duplicates, groups across splits, which rows a limit keeps.

A few numbers a row are held in memory (about 40 bytes), never its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from distill.labeling.rows.data_config import SPLITS

_DTYPES: dict[str, type] = {
    "row": np.uint64,
    "content": np.uint64,
    "group": np.uint64,
    "split": np.int8,
    "gold": np.int32,
    "weight": np.float64,
}


def share_of(group: str, *, seed: int) -> float:
    """Where a group falls in [0, 1): BLAKE2b of seed and group, so other groups coming or going do not move it."""
    digest = hashlib.blake2b(f"{seed}\x1f{group}".encode(), digest_size=8, person=b"distill-split").digest()
    return int.from_bytes(digest, "big") / 2**64


def split_groups(groups: pl.Series, shares: Mapping[str, float], *, seed: int) -> pl.Series:
    """Gives each row the split of its group.

    Args:
        groups: Group of each row, shape (n,).
        shares: Share of the groups by split, summing to one.
        seed: Another seed gives another division.

    Returns:
        Names of splits, shape (n,).
    """
    names = [name for name in SPLITS if shares.get(name)]
    edges = np.cumsum([shares[name] for name in names])
    known = groups.unique()
    places = np.array([share_of(group, seed=seed) for group in known])
    # Rounding may leave the last edge a little under one.
    chosen = np.minimum(np.searchsorted(edges, places, side="right"), len(names) - 1)
    return groups.replace_strict(known, pl.Series([names[index] for index in chosen], dtype=pl.String))


@dataclass(frozen=True)
class Resolution:
    """What becomes of every row.

    Attributes:
        keep: Whether the row stays, shape (n,).
        clashing: Rows whose id belongs to an earlier row with other content.
        merged: Rows that repeat an earlier one; their weight went to it.
        conflicting: Those of ``merged`` whose gold label is not that of the row they repeat.
        weight: After merging, shape (n,).
        gold: Index of the label after merging, -1 for none, shape (n,).
        duplicate_content: Rows kept that say the same as another one kept under another id.
    """

    keep: np.ndarray
    clashing: np.ndarray
    merged: np.ndarray
    conflicting: np.ndarray
    weight: np.ndarray
    gold: np.ndarray
    duplicate_content: int


class RowIndex:
    """Hashes of ids, contents and groups of all rows read so far."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in _DTYPES}
        self.height = 0

    def add(self, frame: pl.DataFrame, *, labels: tuple[str, ...], inputs: tuple[str, ...]) -> None:
        """Takes in a batch that has the columns of a table of rows.

        Args:
            frame: ``row_id``, ``group``, ``split``, ``gold``, ``weight`` and the inputs.
            labels: The label set, for the code of the gold label.
            inputs: Columns that make two rows the same where they agree.
        """
        separator = "\x1f"
        columns = {
            "row": frame["row_id"].hash(),
            "content": frame.select(pl.concat_str(inputs, separator=separator)).to_series().hash(),
            "group": frame["group"].hash(),
            "split": frame["split"].replace_strict(SPLITS, range(len(SPLITS)), default=-1, return_dtype=pl.Int8),
            "gold": frame["gold"].replace_strict(labels, range(len(labels)), default=-1, return_dtype=pl.Int32),
            "weight": frame["weight"],
        }
        for name, dtype in _DTYPES.items():
            self._parts[name].append(columns[name].to_numpy().astype(dtype))
        self.height += frame.height

    def column(self, name: str) -> np.ndarray:
        """One of ``row``, ``content``, ``group`` (hashes), ``split``, ``gold`` (codes) or ``weight``, shape (n,)."""
        parts = self._parts[name]
        if len(parts) > 1:
            self._parts[name] = parts = [np.concatenate(parts)]
        return parts[0] if parts else np.empty(0, dtype=_DTYPES[name])

    def resolve(self) -> Resolution:
        """Finds duplicates; of those the first in order stays."""
        content = self.column("content")
        first = _first_of_each(self.column("row"))
        again = np.flatnonzero(first != np.arange(self.height))
        same = content[again] == content[first[again]]
        merged, clashing = again[same], again[~same]
        weight, gold = self.column("weight").copy(), self.column("gold").copy()
        np.add.at(weight, first[merged], weight[merged])
        for row in merged[gold[merged] >= 0]:
            if gold[first[row]] < 0:
                gold[first[row]] = gold[row]
        conflicting = merged[(gold[merged] >= 0) & (gold[merged] != gold[first[merged]])]
        keep = np.ones(self.height, dtype=bool)
        keep[again] = False
        duplicates = int(keep.sum()) - len(np.unique(content[keep]))
        return Resolution(keep, clashing, merged, conflicting, weight, gold, duplicates)

    def leaking(self, without: Iterable[int] = ()) -> np.ndarray:
        """First row of each group that stands in more than one split, leaving some rows out.

        Args:
            without: Places of rows to leave out, counted from the first row ever added.

        Returns:
            Places, ascending, shape (groups,).
        """
        used = np.ones(self.height, dtype=bool)
        used[list(without)] = False
        rows = np.flatnonzero(used)
        group, split = self.column("group")[rows], self.column("split")[rows]
        first = _first_of_each(group)
        odd = np.unique(first[split != split[first]])
        return rows[odd]

    def stratified(self, keep: np.ndarray, limit: int) -> np.ndarray:
        """Narrows ``keep`` to ``limit`` rows: the first ones of every split, in proportion to the splits.

        Args:
            keep: Which rows may stay, shape (rows,).
            limit: How many do.

        Returns:
            A mask of the same shape; ``keep`` itself where it has no more than ``limit``.
        """
        rows = np.flatnonzero(keep)
        if len(rows) <= limit:
            return keep
        split = self.column("split")[rows]
        place = np.empty(len(rows))
        for code in np.unique(split):
            of_split = np.flatnonzero(split == code)
            place[of_split] = (np.arange(len(of_split)) + 0.5) / len(of_split)
        chosen = rows[np.argsort(place, kind="stable")[:limit]]
        narrowed = np.zeros_like(keep)
        narrowed[chosen] = True
        return narrowed


def _first_of_each(keys: np.ndarray) -> np.ndarray:
    """For each element the position of the first equal one, shape (n,)."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]
