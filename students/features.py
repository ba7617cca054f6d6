"""Hashed text features of a row, for students without a tokenizer."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from distill.students.matching import (
    WordMatch,
    match_feature_names,
    match_features,
    match_words,
    normalise,
    trigrams,
    words,
)

MAX_FEATURES = 128
"""Hashed features of one slot, so that a huge cell costs no more than a long one."""
_MAX_CHARACTERS = 2000
_LIKENESS_EDGES = (0.05, 0.2, 0.3, 0.45, 0.6)


class HashedRows(NamedTuple):
    """Rows as a network reads them.

    Attributes:
        slots: For each row, for each slot of :func:`slot_names`, the int64 buckets of its features.
        dense: ``[N, dense]`` float32, the numbers of :func:`dense_names`, all within 0 and about 4.
    """

    slots: list[list[np.ndarray]]
    dense: np.ndarray


def slot_names(inputs: Sequence[str]) -> list[str]:
    """Slots of hashed features: each has an embedding of its own, the mean of its features' embeddings."""
    own = [name for column in inputs for name in (f"{column}:words", f"{column}:trigrams")]
    return own if len(inputs) == 1 else [*own, "found", "missing", "places", "pairs"]


def dense_names(inputs: Sequence[str]) -> list[str]:
    """Numbers besides the hashed features."""
    return ["query.length", *match_feature_names(inputs)]


def hash_rows(rows: pl.DataFrame, *, inputs: Sequence[str], buckets: int) -> HashedRows:
    """Turns rows into bucket ids and numbers. The same row gives the same arrays in every process and on every machine.

    Feature hashing (Weinberger et al. 2009) by CRC-32 of ``slot, feature``; Python's own ``hash`` is salted by process.

    Args:
        rows: At least the input columns.
        inputs: The query's column, then the listing's.
        buckets: Size of the embedding table.
    """
    salts = [zlib.crc32(name.encode()) for name in slot_names(inputs)]
    hashed: list[list[np.ndarray]] = []
    dense = np.zeros((rows.height, len(dense_names(inputs))), dtype=np.float32)
    for number, values in enumerate(rows.select(inputs).iter_rows()):
        texts = [str(value or "")[:_MAX_CHARACTERS] for value in values]
        matches = match_words(texts[0], texts[1:])
        features = _features(texts, matches, inputs)
        hashed.append([_buckets(found, salt, buckets) for found, salt in zip(features, salts, strict=True)])
        dense[number] = [math.log1p(len(texts[0])) / 2.0, *match_features(texts[0], texts[1:], matches)]
    return HashedRows(hashed, dense)


def _buckets(features: Sequence[str], salt: int, buckets: int) -> np.ndarray:
    return np.array([zlib.crc32(name.encode("utf-8", "surrogatepass"), salt) % buckets for name in features], np.int64)


def _features(texts: Sequence[str], matches: Sequence[WordMatch], inputs: Sequence[str]) -> Iterator[list[str]]:
    """Features of every slot, in the order of :func:`slot_names`."""
    for text in texts:
        normal = normalise(text)
        split = words(normal)
        yield list(dict.fromkeys([*split, *map(" ".join, pairwise(split))]))[:MAX_FEATURES]
        yield sorted(frozenset().union(*(trigrams(word) for word in split)) if split else ())[:MAX_FEATURES]
    if len(texts) == 1:
        return
    yield [match.word for match in matches if any(match.part)]
    yield [match.word for match in matches if not any(match.part)]
    yield [place for match in matches for place in _places(match, inputs)][:MAX_FEATURES]
    last = words(normalise(texts[1]))[-3:]
    yield [f"{match.word}|{word}" for match in matches for word in last][:MAX_FEATURES]


def _places(match: WordMatch, inputs: Sequence[str]) -> list[str]:
    """Which inputs hold the word, and how closely the listing comes to it where none does."""
    held = [column for column, part in zip(inputs[1:], match.part, strict=True) if part]
    if held:
        return ["in " + " ".join(held), *(f"{match.word} in {column}" for column in held)]
    bin_ = sum(match.likeness >= edge for edge in _LIKENESS_EDGES)
    return [f"likeness {bin_}", "number missing" if match.word[0].isdigit() else "word missing"]
