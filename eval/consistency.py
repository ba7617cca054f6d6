"""Whether a student says the same of a row that means the same: a check that needs no label.

The row is changed in a way that a person would hardly notice, the student is asked again, and the two answers are
compared. A student that changes its mind is wrong at least once; one that never does may still be wrong every time, so
that this finds trouble and proves nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, Size, estimate, ratio_estimates, undefined

Change = Literal["typo", "case", "word_order", "listing_order"]

_NEIGHBOURS = {
    one: "".join(row[max(0, place - 1) : place] + row[place + 1 : place + 2])
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for place, one in enumerate(row)
}
_PARTS = re.compile(r"\s*[;|\n]\s*|\s*,\s+|(?<=[.!?])\s+")
_LEAST_LETTERS = 4


class Consistency(Frozen):
    """How a student takes one kind of change."""

    change: str
    rows: int = Field(description="rows that the change touches; the others are left out")
    same_label: Estimate = Field(description="share of them with the label that they had before")
    moved: Estimate = Field(description="mean total variation between the distributions before and after, 0 to 1")


def changed_rows(rows: pl.DataFrame, change: Change, *, inputs: Sequence[str], seed: int = 0) -> pl.DataFrame:
    """The rows that a change touches, changed.

    * ``typo``: in one word of the query with four letters or more, two neighbours swapped, a letter dropped, doubled,
      or hit one key beside.
    * ``case``: the query in capitals, or in small letters where it was in capitals.
    * ``word_order``: the words of the query in another order. It may change what is meant (*dog bed*, *bed dog*);
      compare it between students, not with zero.
    * ``listing_order``: the listing's fields with their parts (between ``;``, ``|``, commas, sentences) in another
    order.

    Args:
        rows: ``row_id`` and the inputs.
        change: Which.
        inputs: The query's column, then the listing's.
        seed: Same seed and row, same change, whatever other rows there are.

    Returns:
        The rows that differ, in their order, all columns kept.
    """
    work = _CHANGES[change]
    query, listing = inputs[0], list(inputs[1:])
    touched = listing if change == "listing_order" else [query]
    if not touched:
        return rows.clear()
    new: dict[str, list[str]] = {name: [] for name in touched}
    for row in rows.select("row_id", *touched).iter_rows(named=True):
        for name in touched:
            drawn = random.Random(f"{seed}\0{change}\0{row['row_id']}\0{name}")
            new[name].append(work(str(row[name] or ""), drawn))
    fresh = rows.with_columns(pl.Series(name, values, dtype=pl.String) for name, values in new.items())
    differs = pl.any_horizontal(pl.col(name) != rows[name].cast(pl.String).fill_null("") for name in touched)
    return fresh.filter(differs)


def consistency(
    before: pl.DataFrame,
    after: pl.DataFrame,
    rows: pl.DataFrame,
    *,
    change: Change,
    config: EvalConfig | None = None,
    seed: int = 0,
) -> Consistency:
    """Compares a student's predictions before and after a change.

    Args:
        before: ``row_id``, ``label``, ``probs`` of the rows as they are.
        after: The same of the rows of :func:`changed_rows`.
        rows: ``row_id`` and ``group``.
        change: Which change it was.
        config: Resamples and level.
        seed: Of the resamples.
    """
    config = config or EvalConfig()
    joined = after.select("row_id", label_after="label", probs_after="probs").join(before, on="row_id", how="inner")
    joined = joined.join(rows.select("row_id", "group"), on="row_id", how="inner")
    if joined.is_empty():
        nothing = undefined("the change touches no row", level=config.level)
        return Consistency(change=change, rows=0, same_label=nothing, moved=nothing)
    resamples = Resamples.of(joined["group"].to_numpy(), count=config.bootstrap, seed=seed)
    same = (joined["label"] == joined["label_after"]).to_numpy().astype(float)[:, None]
    one, other = (np.array(joined[name].to_list(), dtype=float) for name in ("probs", "probs_after"))
    moved = 0.5 * np.abs(one - other).sum(axis=1)
    sums = resamples.sums(np.column_stack([moved, np.ones(len(moved))]))
    size = Size(len(joined), resamples.groups)
    return Consistency(
        change=change,
        rows=len(joined),
        same_label=ratio_estimates(same, np.ones_like(same), resamples, level=config.level)[0],
        moved=estimate(float(moved.mean()), sums[:, 0] / sums[:, 1], size, level=config.level),
    )


def _typo(text: str, drawn: random.Random) -> str:
    words = [match.span() for match in re.finditer(r"[^\W\d_]+", text) if len(match.group()) >= _LEAST_LETTERS]
    if not words:
        return text
    start, end = drawn.choice(words)
    # The first letter is the one that people hardly ever get wrong.
    place = drawn.randrange(start + 1, end - 1)
    letter = text[place]
    beside = _NEIGHBOURS.get(letter.lower(), "")
    kind = drawn.choice(["swap", "drop", "double", "beside"] if beside else ["swap", "drop", "double"])
    if kind == "swap":
        return text[:place] + text[place + 1] + letter + text[place + 2 :]
    replaced = {"drop": "", "double": letter * 2, "beside": drawn.choice(beside) if beside else letter}[kind]
    return text[:place] + replaced + text[place + 1 :]


def _case(text: str, drawn: random.Random) -> str:
    return text.lower() if text.isupper() else text.upper()


def _word_order(text: str, drawn: random.Random) -> str:
    return " ".join(_other_order(text.split(), drawn))


def _listing_order(text: str, drawn: random.Random) -> str:
    return (
        "; ".join(_other_order([part for part in _PARTS.split(text) if part], drawn)) if _PARTS.search(text) else text
    )


def _other_order(parts: list[str], drawn: random.Random) -> list[str]:
    """Shuffled, and never as it was where it can be otherwise."""
    shuffled = drawn.sample(parts, len(parts))
    return shuffled[1:] + shuffled[:1] if shuffled == parts else shuffled


_CHANGES: Mapping[Change, Callable[[str, random.Random], str]] = MappingProxyType(
    {"typo": _typo, "case": _case, "word_order": _word_order, "listing_order": _listing_order}
)
