"""Words of queries and titles in any script, with their places, and the terms that a search looks up.

A word is a run of letters and digits, apostrophes inside it included; everything else (spaces, hyphens, slashes) stands
between words. Its ``text`` is normalised (NFKC, which also composes Hangul; casefold), its place is in the original.

Search terms are words, Latin ones without the ``s`` of a plural. Runs of Hangul, kana, Han and Thai, where a space or
its absence says little, become overlapping pairs of characters, as Lucene's CJKBigramFilter makes them: 무선이어폰 and
무선 이어폰 share three of their four.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

_UNSPACED = "\u0e00-\u0e7f\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
# Combining marks belong to the letter before them: é may come as two code points.
_LETTER = "[^\\W_]|[\u0300-\u036f]"
_WORD = re.compile(f"(?:{_LETTER})+(?:['’](?:{_LETTER})+)*")
_PART = re.compile(rf"[{_UNSPACED}]+|\d+|(?:(?![\d{_UNSPACED}])\w)+")
_UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")
_SINGLE_HANGUL = re.compile("([\u3131-\u318e]+)")
_PLURAL = re.compile(r"[a-z]{2,}[^s\W\d]s")


class Word(NamedTuple):
    """A word: its normalised text, and its characters ``start`` to ``end`` (exclusive) in the original."""

    text: str
    start: int
    end: int


def words(text: str) -> list[Word]:
    """The words of a text, in order."""
    return [Word(normalised_word(match[0]), match.start(), match.end()) for match in _WORD.finditer(text)]


@lru_cache(maxsize=65_536)
def normalised_word(word: str) -> str:
    """NFKC and casefold, with one kind of apostrophe.

    Single letters of Hangul (ㄱ, ㅏ), which half-typed words end in, stay: NFKC would make other characters of them.
    """
    parts = _SINGLE_HANGUL.split(word)
    return "".join(part if at % 2 else _folded(part) for at, part in enumerate(parts)).replace("’", "'")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def has_digit(word: str) -> bool:
    """Whether a word holds a digit: a size, a quantity, a model number."""
    return any(character.isdigit() for character in word)


def search_terms(text: str) -> list[str]:
    """The terms under which a text is indexed and searched, repeats included."""
    terms: list[str] = []
    for word in words(text):
        terms.extend(_terms_of_word(word.text))
    return terms


@lru_cache(maxsize=262_144)
def _terms_of_word(word: str) -> tuple[str, ...]:
    terms: list[str] = []
    for part in _PART.findall(word.replace("'", "")):
        if _UNSPACED_RUN.fullmatch(part) and len(part) > 2:
            terms.extend(part[place : place + 2] for place in range(len(part) - 1))
        else:
            terms.append(part[:-1] if _PLURAL.fullmatch(part) else part)
    return tuple(terms)
