"""How several columns together name a row: one rule for rows, and for recorded replies that are looked up by them."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def join_columns(columns: Sequence[pl.Series]) -> pl.Series:
    """One text column of several, null where any is.

    The parts are joined by a bar. Bars and backslashes inside a part are escaped by a backslash, so that
    ``a|b`` + ``c`` is not ``a`` + ``b|c``.
    """
    if len(columns) == 1:
        return columns[0]
    escaped = [part.str.replace_all("\\", "\\\\", literal=True) for part in columns]
    escaped = [part.str.replace_all("|", "\\|", literal=True) for part in escaped]
    return pl.select(pl.concat_str(escaped, separator="|")).to_series()
