"""Spans as marks of word pieces (BIO), and back to characters of the text.

A piece knows the characters that it was read from, ``starts`` and ``ends`` (exclusive, code points); several pieces may
stem from one character (the bytes of an emoji, the jamo of a syllable). A piece belongs to a span where it shares a
character with it. What comes back begins and ends where characters do, never within one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

OUTSIDE = 0


class Marked(NamedTuple):
    """A span as it is marked: characters, type by number, and the weight behind it, from 0 to 1."""

    start: int
    end: int
    type: int
    support: float = 1.0


class MarkedPlaces(NamedTuple):
    """Characters of what an example's spans are marked on: the first of each, and the one after its last."""

    starts: Sequence[int]
    ends: Sequence[int]


def marked_places(example: Mapping[str, Any]) -> MarkedPlaces:
    """Those of its words where it has them (:mod:`distill.students.queries.span_words`), else of its word pieces."""
    if "word_starts" in example:
        return MarkedPlaces(example["word_starts"], example["word_ends"])
    return MarkedPlaces(example["starts"], example["ends"])


def marks_of(spans: Sequence[Marked], *, starts: Sequence[int], ends: Sequence[int], types: int) -> np.ndarray:
    """Distributions over marks, ``[pieces, 1 + 2 * types]`` float32: outside, then begin and inside of each type.

    A piece of a span has its support on begin or inside and the rest on outside.

    Args:
        spans: Of one text, without overlap; where two share a piece the first has it.
        starts: Of each piece; one without characters, such as ``[CLS]``, starts and ends at -1 and is outside.
        ends: Of each piece.
        types: How many there are.
    """
    marks = np.zeros((len(starts), 1 + 2 * types), dtype=np.float32)
    marks[:, OUTSIDE] = 1.0
    taken = np.zeros(len(starts), dtype=bool)
    for span in sorted(spans):
        begins = True
        for piece, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if taken[piece] or start < 0 or start >= span.end or end <= span.start:
                continue
            taken[piece] = True
            marks[piece, OUTSIDE] = 1.0 - span.support
            marks[piece, 1 + 2 * span.type + (0 if begins else 1)] = span.support
            begins = False
    return marks


def spans_of(marks: Sequence[int], text: str, *, starts: Sequence[int], ends: Sequence[int]) -> list[Marked]:
    """Spans of the marks of a text's pieces, in order; an inside without its begin begins one.

    White space around a span is no part of it, and a character that an earlier span has is not given twice.
    """
    found: list[Marked] = []
    open_type = -1
    for mark, start, end in zip(marks, starts, ends, strict=True):
        if start < 0:
            continue
        if mark == OUTSIDE:
            open_type = -1
            continue
        type_, inside = (mark - 1) // 2, (mark - 1) % 2 == 1
        same_character = bool(found) and end <= found[-1].end
        if open_type == type_ and (inside or same_character):
            found[-1] = found[-1]._replace(end=max(end, found[-1].end))
        else:
            start = max(start, found[-1].end) if found else start
            if start < end:
                found.append(Marked(start, end, type_))
        open_type = type_
    return [span for span in (_trimmed(span, text) for span in found) if span.start < span.end]


def _trimmed(span: Marked, text: str) -> Marked:
    written = text[span.start : span.end]
    return span._replace(
        start=span.start + len(written) - len(written.lstrip()), end=span.end - len(written) + len(written.rstrip())
    )
