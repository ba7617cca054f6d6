"""Where in a listing the words of a query are found: what small students cannot see by themselves."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_LONGEST_KEPT = 32
"""Letters of a text whose trigrams are kept."""
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


class _Matched(NamedTuple):
    """What :func:`match_words` and :func:`match_features` give."""

    words: tuple[WordMatch, ...]
    features: tuple[float, ...]


def match_words(query: str, fields: Sequence[str]) -> tuple[WordMatch, ...]:
    """Looks every distinct word of a query up in every field of a listing.

    What was found last is kept, since a student asks twice: for its network and for the linear model beside it.

    Args:
        query: The query.
        fields: The listing's texts; an empty one contains nothing.
    """
    return _matched(query, tuple(fields)).words


@lru_cache(maxsize=6144)  # three of the stretches in which students read rows
def _matched(query: str, fields: tuple[str, ...]) -> _Matched:
    wanted, listing = cut(query), [cut(field) for field in fields]
    found = _match_words(wanted, listing)
    return _Matched(found, _match_features(wanted, listing, found))


def _match_words(query: CutText, listing: Sequence[CutText]) -> tuple[WordMatch, ...]:
    listing_trigrams: list[frozenset[str]] | None = None
    found = []
    for word in dict.fromkeys(query.words):
        part = tuple(word in field.text for field in listing)
        if any(part):
            likeness = 1.0
        else:
            if listing_trigrams is None:
                listing_trigrams = [trigrams(other) for field in listing for other in field.vocabulary]
            own = trigrams(word)
            # Nearly all words have nothing in common, which is quicker to see than how much.
            near = (jaccard(own, other) for other in listing_trigrams if not own.isdisjoint(other))
            likeness = max(near, default=0.0)
        found.append(WordMatch(word, tuple(word in field.vocabulary for field in listing), part, likeness))
    return tuple(found)


class CutText(NamedTuple):
    """A text as it is compared.

    Attributes:
        text: Normalised.
        words: Its words, in order.
        vocabulary: The same, each once.
    """

    text: str
    words: tuple[str, ...]
    vocabulary: frozenset[str]


@lru_cache(maxsize=64)  # the texts of the row at hand, which several ask about
def cut(text: str) -> CutText:
    """Normalises a text and cuts it into words."""
    normal = normalise(text)
    found = tuple(words(normal))
    return CutText(normal, found, frozenset(found))


def trigrams(text: str) -> frozenset[str]:
    """Character trigrams of a text with a space put before and after it."""
    return _word_trigrams(text) if len(text) <= _LONGEST_KEPT else _trigrams(text)


def _trigrams(text: str) -> frozenset[str]:
    padded = f" {text} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


_word_trigrams = lru_cache(maxsize=16_384)(_trigrams)  # some 10 MB; half of all words of a text are common ones


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


def match_features(query: str, fields: Sequence[str]) -> tuple[float, ...]:
    """Numbers from 0 to 1 that tell how a query fares in a listing, kept as :func:`match_words` keeps its own.

    For each field: the share of the query's words that are words of it (``whole``) or inside it (``part``), and the
    share of the query's character trigrams that it has (``likeness``). Over all fields: the share of words found
    nowhere (``missing``); the ``lowest``, ``second`` lowest and ``mean`` likeness of a word, and that of the ``first``
    and ``last``; the share of ``numbers`` among the words, and of words that are numbers found nowhere
    (``numbers_missing``).

    A listing's own lengths are left out on purpose: they say nothing of the query, yet may tell who wrote the row
    (docs/log.md).
    """
    return _matched(query, tuple(fields)).features


def _match_features(query: CutText, listing: Sequence[CutText], matches: Sequence[WordMatch]) -> tuple[float, ...]:
    if not listing:
        return ()
    count = max(1, len(matches))
    wanted = trigrams(query.text)
    numbers: list[float] = []
    for field, of_field in enumerate(listing):
        numbers += [
            sum(match.whole[field] for match in matches) / count,
            sum(match.part[field] for match in matches) / count,
            # A trigram of a text is one that is found in it: no set of all of them is made.
            sum(map(f" {of_field.text} ".__contains__, wanted)) / max(1, len(wanted)),
        ]
    likeness = [match.likeness for match in matches] or [0.0]
    ranked = sorted(likeness)
    digits = [match for match in matches if match.word[0].isdigit()]
    numbers += [sum(not any(match.part) for match in matches) / count]
    numbers += [ranked[0], ranked[min(1, len(ranked) - 1)], sum(ranked) / len(ranked), likeness[0], likeness[-1]]
    return (*numbers, len(digits) / count, sum(not any(match.part) for match in digits) / count)
