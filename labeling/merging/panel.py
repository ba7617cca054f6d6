"""Votes as arrays, ready to be merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from distill.labeling.errors import DataError

_REQUIRED = ("row_id", "teacher", "label")
# A distribution that was rounded when it was written does not sum to one exactly.
_SUM_TOLERANCE = 0.02
_LEAST_STATED = 20
_SHOWN = 8


@dataclass(frozen=True)
class Opinions:
    """Distributions over the labels, one a row and voter (a teacher, or a family).

    Attributes:
        row: Index of the row, ascending, shape (n,).
        voter: Index of the voter, ascending within a row, shape (n,).
        probs: Distributions, shape (n, labels).
        weight: How loud each is, shape (n,); None where all are as loud.
    """

    row: np.ndarray
    voter: np.ndarray
    probs: np.ndarray
    weight: np.ndarray | None = None


@dataclass(frozen=True)
class Panel:
    """The labeled votes of a table.

    Attributes:
        labels: The label set; distributions are in this order.
        ordered: Whether the labels are grades.
        row_ids: Every row of the table, also those without a labeled vote, in order of appearance.
        teachers: Names, in order of appearance.
        families: Names, in order of appearance.
        family_of: Index of each teacher's family, shape (teachers,).
        row: Index into ``row_ids`` of each vote, shape (n,).
        teacher: Index of each vote's teacher, shape (n,).
        label: Index of each vote's label, shape (n,).
        probs: Distribution of each vote, shape (n, labels). Where a vote stated none it is one-hot if none of the
            table did, else what those that did state on average with its label.
        stated: Whether the vote stated a distribution, shape (n,).
        position: Line of each vote in the table that it came from, shape (n,).
        weight: How loud each vote is, shape (n,), greater than zero; None where all are as loud.
    """

    labels: tuple[str, ...]
    ordered: bool
    row_ids: pl.Series
    teachers: tuple[str, ...]
    families: tuple[str, ...]
    family_of: np.ndarray
    row: np.ndarray
    teacher: np.ndarray
    label: np.ndarray
    probs: np.ndarray
    stated: np.ndarray
    position: np.ndarray
    weight: np.ndarray | None = None

    @classmethod
    def from_votes(cls, votes: pl.DataFrame, labels: Sequence[str], *, ordered: bool = False) -> Panel:
        """Reads a table of votes.

        Args:
            votes: At least ``row_id``, ``teacher``, ``label``; ``family``, ``probs`` and ``outcome`` are used where
                they are there. Without a family a teacher stands alone. Where ``outcome`` is there only ``labeled``
                counts; a null label never does.
            labels: The label set.
            ordered: Whether the labels are grades.

        Raises:
            DataError: A column is missing, the table is empty, a label is not in the set, a distribution is none, or a
                teacher has two families.
        """
        missing = [name for name in _REQUIRED if name not in votes.columns]
        if missing:
            raise DataError(f"votes: missing column(s) {missing}, got {votes.columns}; a vote needs {list(_REQUIRED)}")
        if not votes.height:
            raise DataError("votes: the table is empty; label rows first")
        votes = votes.with_columns(pl.col(*_REQUIRED).cast(pl.String)).with_columns(
            pl.coalesce([*(["family"] if "family" in votes.columns else []), "teacher"]).cast(pl.String).alias("family")
        )
        row_ids = votes["row_id"].unique(maintain_order=True)
        used = votes["label"].is_not_null()
        if "outcome" in votes.columns:
            used &= votes["outcome"] == "labeled"
        position = used.arg_true()
        votes = votes.filter(used)
        _check_labels(votes, labels)
        teachers = votes.select("teacher", "family").unique(maintain_order=True)
        _check_families(teachers)
        families = teachers["family"].unique(maintain_order=True)
        label = _codes(votes["label"], pl.Series(labels, dtype=pl.String))
        probs, stated = _distributions(votes, label, len(labels))
        return cls(
            labels=tuple(labels),
            ordered=ordered,
            row_ids=row_ids,
            teachers=tuple(teachers["teacher"]),
            families=tuple(families),
            family_of=_codes(teachers["family"], families),
            row=_codes(votes["row_id"], row_ids),
            teacher=_codes(votes["teacher"], teachers["teacher"]),
            label=label,
            probs=probs,
            stated=stated,
            position=position.to_numpy(),
        )

    @cached_property
    def judgments(self) -> Opinions:
        """One opinion a teacher: the mean over its repeated samples of the row."""
        return _mean_by(self.row, self.teacher, self.probs, voters=len(self.teachers), weight=self.weight)

    @cached_property
    def hard_judgments(self) -> Opinions:
        """Likewise of the bare labels: shares of the teacher's samples."""
        if not self.stated.any():
            return self.judgments
        one_hot = np.eye(len(self.labels))[self.label]
        return _mean_by(self.row, self.teacher, one_hot, voters=len(self.teachers), weight=self.weight)

    @cached_property
    def family_opinions(self) -> Opinions:
        """One opinion a family: the mean over its teachers."""
        of_teachers = self.judgments
        family = self.family_of[of_teachers.voter]
        weight = of_teachers.weight
        return _mean_by(of_teachers.row, family, of_teachers.probs, voters=len(self.families), weight=weight)

    def sum_by_row(self, row: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Sums values of shape (n,) or (n, k) whose rows ascend; rows without any get zero."""
        total = np.zeros((len(self.row_ids), *values.shape[1:]))
        if len(row):
            starts = _starts(row)
            total[row[starts]] = np.add.reduceat(values, starts, axis=0)
        return total


def _check_labels(votes: pl.DataFrame, labels: Sequence[str]) -> None:
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise DataError(f"labels: need at least two different ones, got {list(labels)}")
    unknown = votes["label"].unique(maintain_order=True)
    unknown = unknown.filter(~unknown.is_in(list(labels)))
    if len(unknown):
        raise DataError(
            f"votes: {len(unknown)} label(s) are not in the set, such as {unknown.head(_SHOWN).to_list()}; the set is "
            f"{list(labels)}; map them, or leave those votes out"
        )


def _check_families(teachers: pl.DataFrame) -> None:
    twice = teachers.filter(pl.len().over("teacher") > 1)
    if twice.height:
        raise DataError(
            f"votes: teacher {twice['teacher'][0]!r} stands under two families, {twice['family'].head(2).to_list()}; "
            "a teacher has one"
        )


def _codes(values: pl.Series, known: pl.Series) -> np.ndarray:
    codes = values.replace_strict(known, pl.Series(range(len(known)), dtype=pl.Int64), return_dtype=pl.Int64)
    return codes.to_numpy().astype(np.int64, copy=False)


def _distributions(votes: pl.DataFrame, label: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Distributions of shape (n, width), and whether each was stated."""
    probs = np.zeros((len(label), width))
    if "probs" not in votes.columns or votes["probs"].null_count() == votes.height:
        probs[np.arange(len(label)), label] = 1.0
        return probs, np.zeros(len(label), dtype=bool)
    column = votes["probs"]
    stated = column.is_not_null()
    found = column.filter(stated)
    lengths = found.list.len()
    if (lengths != width).any():
        odd = lengths.filter(lengths != width)[0]
        raise DataError(f"votes: a distribution has {odd} values, there are {width} labels; give one a label, in order")
    values = found.cast(pl.List(pl.Float64)).list.to_array(width).to_numpy().reshape(-1, width)
    total = values.sum(axis=1)
    good = np.isfinite(total) & (np.abs(total - 1) <= _SUM_TOLERANCE) & (values >= 0).all(axis=1)
    if not good.all():
        first = values[np.flatnonzero(~good)[0]].tolist()
        raise DataError(
            f"votes: {int((~good).sum()):,} of {len(good):,} distributions do not sum to 1, such as {first}; "
            "normalise them, or leave probs null for a bare label"
        )
    where = stated.to_numpy()
    probs[where] = values / total[:, None]
    probs[~where] = _usual_distributions(probs[where], label[where])[label[~where]]
    return probs, where


def _usual_distributions(probs: np.ndarray, label: np.ndarray) -> np.ndarray:
    """What votes that state a distribution state on average, by the label that they give, shape (labels, labels).

    A bare label taken for certain would outvote every teacher that says how sure it is. A label that few state a
    distribution for gets the average certainty, the rest shared among the other labels.
    """
    width = probs.shape[1]
    certainty = probs[np.arange(len(label)), label].mean()
    usual = np.full((width, width), (1 - certainty) / (width - 1))
    np.fill_diagonal(usual, certainty)
    for code in range(width):
        of_label = probs[label == code]
        if len(of_label) >= _LEAST_STATED:
            usual[code] = of_label.mean(axis=0)
    return usual


def _mean_by(
    row: np.ndarray, voter: np.ndarray, probs: np.ndarray, *, voters: int, weight: np.ndarray | None
) -> Opinions:
    """Averages the distributions that share row and voter, and their weights.

    Sorted, so that sums do not depend on the order of votes.
    """
    key = row * voters + voter
    if len(key) and (np.diff(key) <= 0).any():
        order = np.argsort(key, kind="stable")
        key, probs, weight = key[order], probs[order], None if weight is None else weight[order]
    starts = _starts(key)
    if len(starts) < len(key):
        counts = np.diff(np.append(starts, len(key)))
        if weight is None:
            probs = np.add.reduceat(probs, starts, axis=0) / counts[:, None]
        else:
            total = np.add.reduceat(weight, starts)
            probs = np.add.reduceat(probs * weight[:, None], starts, axis=0) / total[:, None]
            weight = total / counts
        key = key[starts]
    return Opinions(key // voters, key % voters, probs, weight)


def _starts(keys: np.ndarray) -> np.ndarray:
    """Positions at which a new key begins in an ascending array."""
    return np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.empty(0, dtype=np.int64)
