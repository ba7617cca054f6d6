"""The columns of two sets of rows: what kind each is, and what is compared of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from distill.eval.drift.config import ColumnKind
from distill.eval.drift.exchange import Exchange, differences, p_value
from distill.eval.drift.facts import Comparison, Distance, ValueShift, WordShift
from distill.eval.drift.measures import (
    Measure,
    Words,
    number_cells,
    numbers_of,
    token_lengths,
    value_cells,
    weighted_means,
)
from distill.eval.metrics import Floats

_MOST_WORDS_OF_A_VALUE = 3
_ROWS_A_VALUE = 5
_MOST_VALUES = 30
_NUMBERS_AT_LEAST = 0.95
_VALUES_SHOWN = 12
_WORDS_SHOWN = 10


@dataclass
class WordFindings:
    """What was found of words and of single values."""

    comparisons: list[Comparison] = field(default_factory=list)
    words: tuple[WordShift, ...] = ()
    values: tuple[ValueShift, ...] = ()


def column_kinds(
    rows: pl.DataFrame, columns: Sequence[str], told: Mapping[str, ColumnKind], *, first: str
) -> dict[str, ColumnKind]:
    """What kind each column is, from both sets together.

    A number where nearly all cells that say something are numbers, of more than thirty values; a category where values
    are short and recur (a fifth as many values as rows, or thirty); else a text. The first input, the query, is a text.
    """
    found: dict[str, ColumnKind] = {}
    for name in columns:
        if name in told:
            found[name] = told[name]
            continue
        said = rows[name].str.strip_chars()
        said = said.filter(said != "")
        values = said.n_unique()
        if name != first and len(said) and values > _MOST_VALUES:
            numeric = float(np.isfinite(numbers_of(said)).mean())
            if numeric >= _NUMBERS_AT_LEAST:
                found[name] = "number"
                continue
        short = len(said) > 0 and float(token_lengths(said).mean()) <= _MOST_WORDS_OF_A_VALUE
        recur = values <= max(_MOST_VALUES, len(said) // _ROWS_A_VALUE)
        found[name] = "category" if name != first and short and recur else "text"
    return found


def column_measures(
    rows: pl.DataFrame, exchange: Exchange, kinds: Mapping[str, ColumnKind], *, level: float
) -> list[Measure]:
    """What is compared of the columns, words left out: lengths, empty cells, values, numbers.

    Args:
        rows: ``[n]``, the rows of both sets, columns as text.
        exchange: Which rows are current, and how groups are exchanged.
        kinds: Of the columns compared, from :func:`column_kinds`.
        level: Coverage of the intervals.
    """
    measures: list[Measure] = []
    for name, kind in kinds.items():
        text = rows[name]
        empty = (text.str.strip_chars() == "").to_numpy().astype(float)
        if empty.any():
            sums = exchange.sums(empty[:, None])
            apart = differences(sums, exchange, level=level)[0]
            means = weighted_means(empty, exchange)
            measures.append(Measure("inputs", name, "empty", sums, "share", means=means, difference=apart))
        if kind == "text":
            measures.append(_ordered(name, "length", token_lengths(text), exchange, unit_of_words=True))
        elif kind == "number":
            measures.append(_ordered(name, "numbers", numbers_of(text), exchange))
        else:
            codes, names = value_cells(text)
            measures.append(Measure("inputs", name, "values", exchange.cells(codes, len(names)), "unordered"))
    return measures


def word_measures(
    rows: pl.DataFrame, exchange: Exchange, kinds: Mapping[str, ColumnKind], *, level: float
) -> WordFindings:
    """What is compared of words: those that only one set has, and those that rise and fall.

    Of a category a value is one word; columns of numbers, and those in which nobody says anything, have none. Arguments
    as for :func:`column_measures`.
    """
    found = WordFindings()
    for name, kind in kinds.items():
        if kind == "number":
            continue
        words = Words.of(rows[name].rename(name), exchange, whole=kind == "category")
        if words is None:
            continue
        found.comparisons.append(_unseen(words, exchange))
        if kind == "category":
            found.values += value_shifts(name, rows[name], exchange, level=level)
            continue
        followed = words.followed(exchange)
        if followed is None:
            continue
        apart, most = followed.standing_out()
        shift = followed.current - followed.reference
        limit = float(np.quantile(most, 0.95))
        order = np.argsort(-np.abs(apart), kind="stable")
        found.words += tuple(
            WordShift(
                column=name,
                word=followed.words[k],
                reference=float(followed.reference[k]),
                current=float(followed.current[k]),
                sure=bool(abs(apart[k]) > limit),
            )
            for sign in (1, -1)
            for k in [k for k in order.tolist() if sign * shift[k] > 0][:_WORDS_SHOWN]
        )
        largest = np.abs(followed.drawn).max(axis=1)
        found.comparisons.append(_one_distance(name, "words", float(np.abs(apart).max()), most, shift, largest))
    return found


def _ordered(name: str, measure: str, values: Floats, exchange: Exchange, *, unit_of_words: bool = False) -> Measure:
    codes, count = number_cells(values)
    means = weighted_means(values, exchange)
    apart = differences(exchange.sums(np.nan_to_num(values)[:, None]), exchange)[0]
    known = bool(np.isfinite(values).all())
    return Measure(
        "inputs",
        name,
        measure,
        exchange.cells(codes, count),
        "ordered",
        unit="words" if unit_of_words else "number",
        means=means if np.isfinite(means).all() else None,
        difference=apart if known else None,
    )


def _unseen(words: Words, exchange: Exchange) -> Comparison:
    found = words.unseen(exchange)
    here, drawn = found.readings()
    spread = np.maximum(drawn.std(axis=0), 1e-12)
    largest, most = float((here / spread).max()), (drawn / spread).max(axis=1)
    by_chance = float(np.quantile(drawn.max(axis=1), 0.95))
    p = p_value(largest, most)
    return Comparison(
        part="inputs",
        column=words.column,
        measure=f"unseen {words.name}",
        reference=found.reference,
        current=found.current,
        size=max(0.0, float(here.max())),
        size_by_chance=by_chance,
        tested="standing_out",
        distances={"standing_out": Distance(value=largest, by_chance=float(np.quantile(most, 0.95)), p_value=p)},
        p_value=p,
        adjusted_p=1.0,
        verdict="cannot tell",
    )


def _one_distance(
    column: str, measure: str, largest: float, drawn: Floats, shift: Floats, shifts: Floats
) -> Comparison:
    """The word that stands out most, against the word that stands out most in every exchange."""
    p = p_value(largest, drawn)
    return Comparison(
        part="inputs",
        column=column,
        measure=measure,
        size=float(np.abs(shift).max()),
        size_by_chance=float(np.quantile(shifts, 0.95)),
        tested="standing_out",
        distances={"standing_out": Distance(value=largest, by_chance=float(np.quantile(drawn, 0.95)), p_value=p)},
        p_value=p,
        adjusted_p=1.0,
        verdict="cannot tell",
    )


def value_shifts(
    name: str, values: pl.Series, exchange: Exchange, *, level: float, only: NDArray[np.bool_] | None = None
) -> tuple[ValueShift, ...]:
    """The values whose share moved most, the new and the vanished among them.

    Args:
        name: Of the column.
        values: ``[n]``, of both sets.
        exchange: Their blocks.
        level: Coverage of the intervals.
        only: ``[n]``, the rows that count; all by default.
    """
    if only is not None and not all((only & (exchange.side == side)).any() for side in (False, True)):
        return ()
    codes, names = value_cells(values.fill_null("").rename(name))
    sums = exchange.cells(codes, len(names), only=only)
    total = sums.sum(axis=1)
    shares = [(weight[0] @ sums) / (weight[0] @ total) for weight in exchange.observed()]
    apart = differences(sums, exchange, total=total, level=level)
    order = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:_VALUES_SHOWN]
    return tuple(
        ValueShift(
            column=name,
            value=names[k] or "(empty)",
            reference=float(shares[0][k]),
            current=float(shares[1][k]),
            difference=apart[k],
            state="new" if shares[0][k] == 0 else "vanished" if shares[1][k] == 0 else "both",
        )
        for k in order.tolist()
    )
