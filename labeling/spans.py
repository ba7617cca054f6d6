"""A span: part of an input, what it is, and whom it names."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl


class SpanAnswer(NamedTuple):
    """Part of a text.

    Attributes:
        start: Its first character (code point), from 0.
        end: The character after its last.
        text: What stands there.
        type: What it is: ``brand``, or one of the task's ``types``.
        link: Name in the brand list; None where it is in none, or there is no list.
    """

    start: int
    end: int
    text: str
    type: str
    link: str | None = None


SPANS_DTYPE = pl.List(
    pl.Struct({"start": pl.Int32(), "end": pl.Int32(), "text": pl.String(), "type": pl.String(), "link": pl.String()})
)
"""Spans of one answer, in the order of the text; empty where there are none."""
