"""Where in a listing the words of a query are found: what small students cannot see by themselves."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")


class WordMatch(NamedTuple):
    """How one word of the query fares in the listing.

    Attributes:
        word: The word, normalised.
        whole: For each field, whether the word is one of its words.
        part: For each field, whether its text contains the word, be it inside a longer one.
        likeness: 1 where any field contains the word, else the highest share of character trigrams that it has in
            common with a word of the listing (Jaccard): a misspelling scores about 0.3 to 0.6.
    """

    word: str
    whole: tuple[bool, ...]
    part: tuple[bool, ...]
    likeness: float


def normalise(text: str) -> str:
    """Unicode NFKC, lower case: full-width letters, ligatures and case stop mattering."""
    return unicodedata.normalize("NFKC", text).lower()


def words(text: str) -> list[str]:
    """Runs of letters and numbers of an already normalised text; ``k87`` gives ``k`` and ``87``."""
    return _WORD.findall(text)


def match_words(query: str, fields: Sequence[str]) -> tuple[WordMatch, ...]:
    """Looks every distinct word of a query up in every field of a listing.

    What was found last is kept, since a student asks twice: for its network and for the linear model beside it.

    Args:
        query: The query.
        fields: The listing's texts; an empty one contains nothing.
    """
    return _match_words(query, tuple(fields))


@lru_cache(maxsize=6144)  # three of the stretches in which students read rows
def _match_words(query: str, fields: tuple[str, ...]) -> tuple[WordMatch, ...]:
    texts = [normalise(field) for field in fields]
    vocabularies = [frozenset(words(text)) for text in texts]
    listing_trigrams: list[frozenset[str]] | None = None
    found = []
    for word in dict.fromkeys(words(normalise(query))):
        part = tuple(word in text for text in texts)
        if any(part):
            likeness = 1.0
        else:
            if listing_trigrams is None:
                listing_trigrams = [trigrams(other) for other in sorted(frozenset().union(*vocabularies))]
            likeness = max((jaccard(trigrams(word), other) for other in listing_trigrams), default=0.0)
        found.append(WordMatch(word, tuple(word in vocabulary for vocabulary in vocabularies), part, likeness))
    return tuple(found)


def trigrams(text: str) -> frozenset[str]:
    """Character trigrams of a text with a space put before and after it."""
    padded = f" {text} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over size of the union; 0 for two empty sets."""
    union = len(one | other)
    return len(one & other) / union if union else 0.0


def match_feature_names(inputs: Sequence[str]) -> list[str]:
    """Names of what :func:`match_features` gives: three for every field, eight over all, none without a listing."""
    if len(inputs) == 1:
        return []
    per_field = [f"{column}.{what}" for column in inputs[1:] for what in ("whole", "part", "likeness")]
    return [*per_field, "missing", "lowest", "second", "mean", "first", "last", "numbers", "numbers_missing"]


def match_features(query: str, fields: Sequence[str], matches: Sequence[WordMatch]) -> list[float]:
    """Numbers from 0 to 1 that tell how a query fares in a listing.

    For each field: the share of the query's words that are words of it (``whole``) or inside it (``part``), and the
    share of the query's character trigrams that it has (``likeness``). Over all fields: the share of words found
    nowhere (``missing``); the ``lowest``, ``second`` lowest and ``mean`` likeness of a word, and that of the ``first``
    and ``last``; the share of ``numbers`` among the words, and of words that are numbers found nowhere
    (``numbers_missing``).

    A listing's own lengths are left out on purpose: they say nothing of the query, yet may tell who wrote the row
    (docs/log.md).
    """
    if not fields:
        return []
    count = max(1, len(matches))
    wanted = trigrams(normalise(query))
    numbers = []
    for field, text in enumerate(fields):
        numbers += [
            sum(match.whole[field] for match in matches) / count,
            sum(match.part[field] for match in matches) / count,
            len(wanted & trigrams(normalise(text))) / max(1, len(wanted)),
        ]
    likeness = [match.likeness for match in matches] or [0.0]
    ranked = sorted(likeness)
    digits = [match for match in matches if match.word[0].isdigit()]
    numbers += [sum(not any(match.part) for match in matches) / count]
    numbers += [ranked[0], ranked[min(1, len(ranked) - 1)], sum(ranked) / len(ranked), likeness[0], likeness[-1]]
    return [*numbers, len(digits) / count, sum(not any(match.part) for match in digits) / count]
