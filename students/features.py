"""Hashed text features of a row, for students without a tokenizer."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from itertools import chain, pairwise, repeat
from typing import NamedTuple

import numpy as np
import polars as pl

from distill.students.matching import (
    CutText,
    WordMatch,
    cut,
    match_feature_names,
    match_features,
    match_words,
    trigrams,
)

MAX_FEATURES = 128
"""Hashed features of one slot, so that a huge cell costs no more than a long one."""
_MAX_CHARACTERS = 2000
_TOGETHER = 512
"""Rows whose trigrams are looked up together; their words are in memory meanwhile."""
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
    hashed: list[list[np.ndarray]] = []
    dense = np.zeros((rows.height, len(dense_names(inputs))), dtype=np.float32)
    for start in range(0, rows.height, _TOGETHER):
        stretch = rows[start : start + _TOGETHER].select(inputs)
        texts = [[str(value or "")[:_MAX_CHARACTERS] for value in values] for values in stretch.iter_rows()]
        known, matches = [], []
        for number, (query, *listing) in enumerate(texts, start):
            matches.append(match_words(query, listing))
            known.append([cut(text) for text in (query, *listing)])
            dense[number] = [math.log1p(len(query)) / 2.0, *match_features(query, listing)]
        hashed += _hashed(known, matches, inputs=inputs, buckets=buckets)
    return HashedRows(hashed, dense)


def _hashed(
    texts: Sequence[Sequence[CutText]],
    matches: Sequence[Sequence[WordMatch]],
    *,
    inputs: Sequence[str],
    buckets: int,
) -> list[list[np.ndarray]]:
    """Buckets of every slot of each row."""
    salts = iter([zlib.crc32(name.encode()) for name in slot_names(inputs)])
    slots: list[list[np.ndarray]] = []
    for column in zip(*texts, strict=True):
        slots.append(_buckets([_words_and_pairs(text.words) for text in column], next(salts), buckets))
        slots.append(_trigram_buckets([text.vocabulary for text in column], next(salts), buckets))
    if len(inputs) > 1:
        of_rows = [_match_slots(cuts[1], found, inputs=inputs) for cuts, found in zip(texts, matches, strict=True)]
        slots += [_buckets(column, next(salts), buckets) for column in zip(*of_rows, strict=True)]
    return [list(row) for row in zip(*slots, strict=True)]


def _buckets(features: Sequence[Sequence[str]], salt: int, buckets: int) -> list[np.ndarray]:
    """Buckets of the features of one slot, row by row."""
    ends = np.cumsum([0, *map(len, features)]).tolist()
    hashed = _hash(list(chain.from_iterable(features)), salt, buckets)
    return [hashed[start:end] for start, end in pairwise(ends)]


def _hash(features: Sequence[str], salt: int, buckets: int) -> np.ndarray:
    try:
        encoded = list(map(str.encode, features))
    except UnicodeEncodeError:  # half of a surrogate pair
        encoded = [name.encode("utf-8", "surrogatepass") for name in features]
    return np.fromiter(map(zlib.crc32, encoded, repeat(salt)), dtype=np.int64, count=len(encoded)) % buckets


def _trigram_buckets(vocabularies: Sequence[frozenset[str]], salt: int, buckets: int) -> list[np.ndarray]:
    """For each text the buckets of the trigrams of its words, in alphabetical order, as many as are used.

    The texts are taken together: words recur, and each has its trigrams looked up once.
    """
    place = {word: number for number, word in enumerate(frozenset().union(*vocabularies))}
    found = [trigrams(word) for word in place]
    names = sorted(frozenset().union(*found))
    if not names:
        return [np.zeros(0, dtype=np.int64) for _ in vocabularies]
    rank = {name: number for number, name in enumerate(names)}
    ranks = np.array([rank[name] for of_word in found for name in of_word])
    sizes = np.array([len(of_word) for of_word in found])
    starts = np.cumsum(sizes) - sizes
    # One line a word of a text, then one a trigram of such a word, then one a trigram of a text.
    word = np.array([place[word] for vocabulary in vocabularies for word in vocabulary])
    text = np.repeat(np.arange(len(vocabularies)), [len(vocabulary) for vocabulary in vocabularies])
    size = sizes[word]
    line = np.arange(size.sum()) + np.repeat(starts[word] - np.cumsum(size) + size, size)
    keys = np.sort(np.repeat(text, size) * len(names) + ranks[line])
    # np.unique hashes them, which takes several times as long.
    text, kept = np.divmod(keys[np.diff(keys, prepend=-1) > 0], len(names))
    hashed = _hash(names, salt, buckets)[kept]
    ends = np.searchsorted(text, np.arange(len(vocabularies) + 1)).tolist()
    return [hashed[start : min(end, start + MAX_FEATURES)] for start, end in pairwise(ends)]


def _match_slots(listing: CutText, matches: Sequence[WordMatch], *, inputs: Sequence[str]) -> list[list[str]]:
    """Features of the slots after those of the texts; ``listing`` is its first text."""
    last = listing.words[-3:]
    return [
        [match.word for match in matches if any(match.part)],
        [match.word for match in matches if not any(match.part)],
        [place for match in matches for place in _places(match, inputs)][:MAX_FEATURES],
        [f"{match.word}|{word}" for match in matches for word in last][:MAX_FEATURES],
    ]


def _words_and_pairs(words: Sequence[str]) -> list[str]:
    """Distinct words in their order, then distinct pairs of neighbours, as many as are used."""
    found = dict.fromkeys(words)
    if len(found) < MAX_FEATURES:
        found.update(dict.fromkeys(map(" ".join, pairwise(words))))
    return list(found)[:MAX_FEATURES]


def _places(match: WordMatch, inputs: Sequence[str]) -> list[str]:
    """Which inputs hold the word, and how closely the listing comes to it where none does."""
    held = [column for column, part in zip(inputs[1:], match.part, strict=True) if part]
    if held:
        return ["in " + " ".join(held), *(f"{match.word} in {column}" for column in held)]
    bin_ = sum(match.likeness >= edge for edge in _LIKENESS_EDGES)
    return [f"likeness {bin_}", "number missing" if match.word[0].isdigit() else "word missing"]
