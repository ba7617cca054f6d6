"""The votes on a task, or one part of it, that is no single label: by row, weighed, and some rows at a time.

A table of many rows is never laid out in Python whole: only the rows of one step are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.errors import DataError
from distill.labeling.merging.dependence import USUAL_BETWEEN
from distill.labeling.spans import SpanAnswer

_ROWS_AT_ONCE = 5_000
_PANELS = 4096


class PanelWeights(NamedTuple):
    """What the voters of a row weigh, whatever they say.

    Attributes:
        families: Of each vote.
        weights: Of each vote; they sum to one.
        n_eff: Kish's effective votes, as in :func:`~distill.labeling.merging.aggregate.aggregate`.
    """

    families: tuple[str, ...]
    weights: tuple[float, ...]
    n_eff: float


class RowVotes(NamedTuple):
    """The votes on a row, in the order of the table.

    Attributes:
        row: Its place among the rows.
        panel: Who votes.
        sure: How sure each vote is.
        answers: What each says: a text, a list of labels or texts, or one of :class:`SpanAnswer`.
    """

    row: int
    panel: PanelWeights
    sure: list[float]
    answers: list[Any]

    @property
    def loud(self) -> list[float]:
        """Weight of each vote, times how sure it is."""
        return [weight * sure for weight, sure in zip(self.panel.weights, self.sure, strict=True)]


class Step(NamedTuple):
    """Some rows, one after the other, and those of them that have an answer."""

    rows: range
    voted: list[RowVotes]


@dataclass(frozen=True)
class AnswerVotes:
    """The votes with an answer, sorted by row.

    Attributes:
        column: The answer's column.
        row_ids: Every row of the part, also those without an answer, in order of appearance.
        table: ``row`` (index into ``row_ids``, ascending), ``voter`` (index into ``voters``), ``sure``, ``answer``,
            ``line`` of the table that they came from.
        voters: Family and teacher.
    """

    column: str
    row_ids: pl.Series
    table: pl.DataFrame
    voters: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, votes: pl.DataFrame, column: str, *, part: str | None = None) -> AnswerVotes:
        """Takes what counts from a table of votes.

        A vote that states no confidence is as sure as those that do are on average, wholly where none does.

        Args:
            votes: ``row_id``, ``teacher``, ``column``; ``part`` where one is given; ``family``, ``outcome`` and
                ``confidence`` where they are there.
            column: The answer's column.
            part: Of a task of several, the one to take; all lines where not given.

        Raises:
            DataError: A column is missing.
        """
        missing = [name for name in ("row_id", "teacher", column) if name not in votes.columns]
        if missing:
            raise DataError(
                f"votes: missing column(s) {missing}, got {votes.columns}; a vote needs row_id, teacher and {column}"
            )
        own = pl.lit(True) if part is None else pl.col("part") == part
        row_ids = votes.lazy().filter(own).select(pl.col("row_id").unique(maintain_order=True).cast(pl.String))
        counts = own & pl.col(column).is_not_null()
        if "outcome" in votes.columns:
            counts &= pl.col("outcome") == "labeled"
        family = pl.coalesce([*(["family"] if "family" in votes.columns else []), "teacher"]).cast(pl.String)
        stated = pl.col("confidence") if "confidence" in votes.columns else pl.lit(None, pl.Float64)
        used = (
            votes.lazy()
            .with_row_index("line")
            .filter(counts)
            .select(
                pl.col("row_id").cast(pl.String),
                pl.col("teacher").cast(pl.String),
                family.alias("family"),
                stated.cast(pl.Float64).alias("sure"),
                pl.col(column).alias("answer"),
                "line",
            )
            .collect()
        )
        mean = used["sure"].rechunk().mean()  # a sum over pieces would depend on how the file was cut
        voters = used.select("family", "teacher").unique(maintain_order=True)
        order = row_ids.collect()
        table = pl.DataFrame(
            [
                _places(used.select("row_id"), order).alias("row"),
                _places(used.select("family", "teacher"), voters).alias("voter"),
                used["sure"].fill_null(1.0 if mean is None else mean),
                used["answer"],
                used["line"],
            ]
        )
        table = table if table["row"].is_sorted() else table.sort("row", maintain_order=True)
        return cls(column, order["row_id"], table, tuple(voters.iter_rows()))

    def by_row(self, *, by_family: bool) -> Iterator[Step]:
        """All rows, some at a time.

        Args:
            by_family: Whether a family has one share, even among its teachers; else a teacher has one. Samples of a
                teacher share its own.
        """
        row, count = self.table["row"].to_numpy(), len(self.row_ids)
        for first in range(0, count, _ROWS_AT_ONCE):
            rows = range(first, min(first + _ROWS_AT_ONCE, count))
            start, stop = np.searchsorted(row, (rows.start, rows.stop)).tolist()
            yield Step(rows, self._rows(self.table.slice(start, stop - start), by_family=by_family))

    def _rows(self, table: pl.DataFrame, *, by_family: bool) -> list[RowVotes]:
        row, voter, sure, answers = (table[name].to_list() for name in ("row", "voter", "sure", "answer"))
        if self.column == "spans":
            answers = [
                [SpanAnswer(**{field: span.get(field) for field in SpanAnswer._fields}) for span in spans]
                for spans in answers
            ]
        starts = np.flatnonzero(np.diff(table["row"].to_numpy(), prepend=-1)).tolist()
        found = []
        for first, end in pairwise([*starts, len(row)] if row else []):
            panel = _panel_weights(tuple([self.voters[at] for at in voter[first:end]]), by_family)
            found.append(RowVotes(row[first], panel, sure[first:end], answers[first:end]))
        return found


def _places(lines: pl.DataFrame, among: pl.DataFrame) -> pl.Series:
    """Where each line stands in a table of distinct ones."""
    numbered = among.with_row_index("place")
    return lines.join(numbered, on=among.columns, how="left", maintain_order="left", nulls_equal=True)["place"]


@lru_cache(maxsize=_PANELS)
def _panel_weights(voters: tuple[tuple[str, str], ...], by_family: bool) -> PanelWeights:
    """Few panels judge all rows, so that each is weighed once. ``voters``: family and teacher of each vote."""
    names = [teacher for _, teacher in voters]
    groups = [family if by_family else teacher for family, teacher in voters]
    samples = Counter(names)
    members: dict[str, set[str]] = {}
    for group, name in zip(groups, names, strict=True):
        members.setdefault(group, set()).add(name)
    weights = [
        1 / (len(members) * len(members[group]) * samples[name]) for group, name in zip(groups, names, strict=True)
    ]
    shares: dict[str, float] = {}
    for (family, _), weight in zip(voters, weights, strict=True):
        shares[family] = shares.get(family, 0.0) + weight
    n_eff = 1 / (USUAL_BETWEEN + (1 - USUAL_BETWEEN) * sum(share**2 for share in shares.values()))
    return PanelWeights(tuple(family for family, _ in voters), tuple(weights), n_eff)
