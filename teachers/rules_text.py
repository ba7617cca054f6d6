"""Words of queries and listings, compared as shoppers mean them: any case, any width, Korean with or without spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# Hangul, kana and Han: words stand in compounds and carry particles, so that a word's end is no boundary.
_UNSPACED = "\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
# A token is of one kind: 라면5봉 is three.
_TOKEN = re.compile(rf"[{_UNSPACED}]+|\d+(?:[.,]\d+)*|(?:(?![\d{_UNSPACED}])\w)+")
_SPACES = re.compile(r"\s+")
_LEAST_PLURAL_CHARS = 4


def normalised(text: str) -> str:
    """NFKC (full-width forms, composed Hangul) and casefold, spaces in one."""
    return _SPACES.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def tokens(text: str) -> list[str]:
    """Words and numbers of a normalised text; Latin words without the ``s`` of a plural (not of ``ss``)."""
    return [_singular(token) for token in _TOKEN.findall(text)]


def _singular(token: str) -> str:
    if len(token) < _LEAST_PLURAL_CHARS or not token.endswith("s") or token.endswith("ss"):
        return token
    return token[:-1]


def shared_part(query: str, listing: str) -> float | None:
    """The share of the query's different words that stand in the listing, from 0 to 1; None where it has no words.

    A word in Hangul, kana or Han counts also inside a word, and across the listing's spaces: 매트리스 커버 has both
    매트리스커버 and 커버.

    Args:
        query: Normalised text.
        listing: Normalised text.
    """
    wanted = set(tokens(query))
    if not wanted:
        return None
    there, together = set(tokens(listing)), listing.replace(" ", "")
    found = sum(token in there or (bool(_HAS_UNSPACED.search(token)) and token in together) for token in wanted)
    return found / len(wanted)


def word_finder(words: Iterable[str], boundary: str = "auto") -> re.Pattern[str]:
    """An expression that finds any of some words in a normalised text.

    Args:
        words: Words or phrases; at least one.
        boundary: ``word`` for whole words, ``none`` for anywhere, ``auto`` for whole words except those in scripts
            that are written without spaces between words or with particles after them.
    """
    found = []
    for word in sorted({normalised(word) for word in words}, key=lambda word: (-len(word), word)):
        loose = boundary == "none" or (boundary == "auto" and _HAS_UNSPACED.search(word))
        escaped = re.escape(word).replace(r"\ ", r"\s+")
        # Not \b, which finds no boundary beside a word that begins or ends in a sign: c++, 9".
        found.append(escaped if loose else rf"(?<!\w){escaped}(?!\w)")
    return re.compile("|".join(found))
