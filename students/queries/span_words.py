"""Words of a text as what spans are marked on, each with its letters and the word pieces that it was read as.

A tokenizer cuts names that it does not know into pieces, and a head that marks pieces has to say of each anew what it
is: spans begin and end within words, and what a whole word looks like is seen by nobody. So an encoder marks words:

* a run of letters and digits, with the apostrophes in it, is one (``kellogg's``);
* any other sign that is no space is one (``coca-cola`` is three), so that a name may end with its full stop;
* in scripts without spaces (Hangul, kana, Han, Thai) every character is one.

Spans that begin or end within a word cannot be said so; :func:`words_fit` tells whether training rows have such.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

_UNSPACED = "\u0e00-\u0e7f\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_LETTER = f"(?:(?![{_UNSPACED}])[^\\W_]|[\u0300-\u036f])"
_WORD = re.compile(f"{_LETTER}+(?:['’]{_LETTER}+)*|\\S")
WORD_LETTERS = 20
"""Letters of a word that are read, its two ends included."""
MOST_LETTERS = 500
"""Letters that are told apart, the most frequent ones."""
PADDING, BEGIN, END, OTHER = range(4)
"""Numbers of what is no letter of the table."""
NAME_BEGINS, NAME_GOES_ON = 1, 2


class Place(NamedTuple):
    """A word: its first character and the one after its last."""

    start: int
    end: int


def word_places(text: str) -> list[Place]:
    """The words of a text, in order; every character that is no space is in one."""
    return [Place(match.start(), match.end()) for match in _WORD.finditer(text)]


def words_fit(texts: Iterable[tuple[str, Sequence[Sequence[int]]]], *, least: float) -> bool:
    """Whether spans begin and end where words do.

    Args:
        texts: Each with its spans, of which the first two numbers are the characters.
        least: Share of the spans of which this has to hold.
    """
    fitting = total = 0
    for text, spans in texts:
        places = word_places(text)
        starts, ends = {place.start for place in places}, {place.end for place in places}
        fitting += sum(span[0] in starts and span[1] in ends for span in spans)
        total += len(spans)
    return fitting >= least * total


def letter_table(texts: Iterable[str]) -> tuple[str, ...]:
    """Letters of texts, decomposed (NFD) and without case, the most frequent first; at most :data:`MOST_LETTERS`."""
    counts = Counter(letter for text in texts for letter in _letters(text) if not letter.isspace())
    return tuple(sorted(counts, key=lambda letter: (-counts[letter], letter))[:MOST_LETTERS])


class WordReader:
    """Reads words as numbers.

    Args:
        letters: From :func:`letter_table`; others are one.
        find_names: Where names of a list stand in a text, first character and the one after the last; None without a
            list.
    """

    def __init__(
        self, letters: Sequence[str], *, find_names: Callable[[str], Sequence[tuple[int, int]]] | None = None
    ) -> None:
        self.letters = tuple(letters)
        self._find_names = find_names
        self._numbers = {letter: number for number, letter in enumerate(letters, start=OTHER + 1)}

    @property
    def size(self) -> int:
        """Rows of an embedding of :meth:`spelled`."""
        return len(self.letters) + OTHER + 1

    def spelled(self, word: str) -> list[int]:
        """:data:`WORD_LETTERS` numbers: the word's letters between its two ends; a long word is cut before its end."""
        own = [self._numbers.get(letter, OTHER) for letter in _letters(word)][: WORD_LETTERS - 2]
        return [BEGIN, *own, END, *[PADDING] * (WORD_LETTERS - 2 - len(own))]

    def read(self, text: str, *, starts: Sequence[int], ends: Sequence[int]) -> dict[str, list[int]]:
        """Entries of an example; a text without words has one that is nowhere.

        Args:
            text: What spans are of.
            starts: Of its pieces, the first character; -1 where a piece is not of the text.
            ends: The character after the last.

        Returns:
            ``word_starts`` and ``word_ends``, characters; ``word_first`` and ``word_last``, the pieces that share a
            character with it (-1 where the text was cut before it); ``word_letters``, :data:`WORD_LETTERS` of each;
            with a list, ``word_names``: :data:`NAME_BEGINS` or :data:`NAME_GOES_ON` where one of its names stands.
        """
        places = word_places(text)
        if not places:
            nothing = {"word_starts": [-1], "word_ends": [-1], "word_first": [-1], "word_last": [-1]}
            nothing |= {"word_letters": [PADDING] * WORD_LETTERS}
            return nothing if self._find_names is None else {**nothing, "word_names": [0]}
        first, last = _pieces_of(places, starts, ends)
        named = {} if self._find_names is None else {"word_names": _named(places, self._find_names(text))}
        return named | {
            "word_starts": [place.start for place in places],
            "word_ends": [place.end for place in places],
            "word_first": first,
            "word_last": last,
            "word_letters": [number for place in places for number in self.spelled(text[place.start : place.end])],
        }


def _named(places: Sequence[Place], names: Sequence[tuple[int, int]]) -> list[int]:
    found = [0] * len(places)
    for start, end in names:
        mark = NAME_BEGINS
        for number, place in enumerate(places):
            if start <= place.start and place.end <= end:
                found[number], mark = mark, NAME_GOES_ON
    return found


def _pieces_of(places: Sequence[Place], starts: Sequence[int], ends: Sequence[int]) -> tuple[list[int], list[int]]:
    first, last = [-1] * len(places), [-1] * len(places)
    own = [number for number, start in enumerate(starts) if start >= 0]
    begin = 0
    for number, place in enumerate(places):
        while begin < len(own) and ends[own[begin]] <= place.start:
            begin += 1
        at = begin
        while at < len(own) and starts[own[at]] < place.end:
            first[number] = own[at] if first[number] < 0 else first[number]
            last[number] = own[at]
            at += 1
    return first, last


def _letters(text: str) -> str:
    return unicodedata.normalize("NFD", text).casefold()
