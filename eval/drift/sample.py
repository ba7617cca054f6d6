"""A sample of whole groups from rows that come in batches, so that memory does not grow with them.

A group is in the sample where the hash of its name is among the smallest, so that both sets, and every week, sample the
same queries. Of a group with very many rows some are kept, and count for those that are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

_HASHES = 2**64
_SLACK = 1.25
"""How far over its limit the sample may grow before it is cut: cutting costs a pass over it."""


@dataclass(frozen=True)
class Sampled:
    """Rows sampled by group.

    Attributes:
        rows: The rows, ``weight`` raised where some of a group, or some groups, were left out.
        read: Rows that came.
        share: Share of the groups that were kept; 1 where all were.
        cut: Groups of which only some rows were kept.
    """

    rows: pl.DataFrame
    read: int
    share: float
    cut: int

    @property
    def note(self) -> str | None:
        """What was left out, in words; None where nothing was."""
        said = []
        if self.share < 1.0:
            said.append(f"a sample of {100 * self.share:.2g}% of the groups, by hash of the group")
        if self.cut:
            said.append(f"some rows of each of {self.cut:,} large groups, which count for the others")
        return "; ".join(said) or None


class GroupSample:
    """Takes batches and keeps a sample.

    Args:
        most_groups: Groups to keep.
        rows_per_group: Rows to keep of each.
        below: Keep groups of a hash below this only: the share that the other set kept.
        always: Groups of the other set: kept whatever their hash, so that common groups stay common.
        seed: Of the hash.
    """

    def __init__(
        self,
        *,
        most_groups: int,
        rows_per_group: int,
        below: float = 1.0,
        always: pl.Series | None = None,
        seed: int = 0,
    ) -> None:
        self._most, self._rows_per_group, self._seed = most_groups, rows_per_group, seed
        self._limit = self._outer = int(below * _HASHES)
        none = pl.Series([], dtype=pl.UInt64)
        # Where the other set was sampled, groups of a hash that it left out would look new here.
        self._always = none if always is None or below < 1.0 else always.cast(pl.String).unique().hash(seed)
        self._kept: list[pl.DataFrame] = []
        self._read = self._pending = 0
        self._sizes = pl.DataFrame(schema={"_hash": pl.UInt64, "_rows": pl.UInt32, "_weight": pl.Float64})

    def add(self, batch: pl.DataFrame) -> None:
        """Takes a batch: ``row_id``, ``group``, and perhaps ``weight``."""
        start = self._read
        self._read += len(batch)
        if "weight" not in batch.columns:
            batch = batch.with_columns(weight=pl.lit(1.0))
        place = pl.int_range(start, start + len(batch), dtype=pl.UInt64, eager=True).hash(self._seed)
        batch = batch.with_columns(_hash=batch["group"].cast(pl.String).hash(self._seed), _draw=place)
        batch = batch.filter(self._wanted())
        counted = batch.group_by("_hash").agg(_rows=pl.len().cast(pl.UInt32), _weight=pl.col("weight").sum())
        self._sizes = pl.concat([self._sizes, counted]).group_by("_hash").agg(pl.col("_rows", "_weight").sum())
        self._kept.append(batch)
        self._pending += len(batch)
        if len(self._sizes) > _SLACK * self._most or self._pending > self._most * 4:
            self._cut()

    def finish(self) -> Sampled:
        """The sample, rows in the order in which they came."""
        self._cut()
        rows = self._kept[0] if self._kept else pl.DataFrame()
        if rows.is_empty():
            return Sampled(rows, self._read, 1.0, 0)
        kept = rows.group_by("_hash").agg(_own=pl.col("weight").sum())
        rows = rows.join(self._sizes, on="_hash", how="left", maintain_order="left")
        rows = rows.join(kept, on="_hash", how="left", maintain_order="left")
        common = pl.col("_hash").is_in(self._always.implode())
        # Groups that the other set has were all kept; the others stand for those of their kind.
        raised = pl.when(common).then(1.0).otherwise(self._outer / self._limit)
        rows = rows.with_columns(weight=pl.col("weight") * pl.col("_weight") / pl.col("_own") * raised)
        large = self._sizes.filter(pl.col("_rows") > self._rows_per_group)
        rows = rows.drop("_hash", "_draw", "_rows", "_weight", "_own")
        return Sampled(rows, self._read, self._limit / _HASHES, len(large))

    def _wanted(self) -> pl.Expr:
        inside = pl.lit(True) if self._limit >= _HASHES else pl.col("_hash") < self._limit
        return inside | pl.col("_hash").is_in(self._always.implode())

    def _cut(self) -> None:
        free = self._sizes.filter(~pl.col("_hash").is_in(self._always.implode()))["_hash"]
        if len(free) > self._most:
            limit = np.partition(free.to_numpy(), self._most)[self._most]
            self._limit = int(limit)
            self._sizes = self._sizes.filter(self._wanted())
        if self._kept:
            rows = pl.concat(self._kept).filter(self._wanted())
            place = pl.col("_draw").rank("ordinal").over("_hash")
            rows = rows.filter(place <= self._rows_per_group)
            self._kept, self._pending = [rows], 0
