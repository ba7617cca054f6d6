"""A text as letters, and a correction as one edit at each of them: what the spelling head of an encoder says.

Letters are the code points of Unicode's decomposed form (NFD): a Hangul syllable is two or three jamo, so that an edit
learned in one syllable serves in all of them. Before the first letter stands a place of its own. At every place there
are two edits (after the tags of GECToR, Omelianchuk et al. 2020, https://arxiv.org/abs/2005.12592, on letters instead
of words, since most slips in queries are within a word and in words that no training row has):

* what becomes of the letter: it stays, goes, or becomes another text;
* what is put behind it: nothing, or a text.

So two words are joined where the space between them goes, and one is split where a space is put in. Both edits come
from what the training rows needed; a correction that needs another one cannot be said.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from distill.labeling.answers.locating import folded, plain_text

KEEP = ""
"""As a replacement: the letter stays. As what is put behind: nothing."""
DELETE = "\0"
"""As a replacement: the letter goes."""
LONGEST_EDIT = 4
"""Letters that one edit may write; a correction that needs more is a rewrite."""
MOST_EDITS = 2000
"""Of each of the two kinds, the most frequent ones."""


class Letters(NamedTuple):
    """A text's letters.

    Attributes:
        letters: Of the text with runs of white space as one space and none around it, case kept.
        origins: Of each the code point of the text that it came from.
    """

    letters: list[str]
    origins: list[int]


class Edits(NamedTuple):
    """Edits at each place, the one before the first letter included; ``[letters + 1]`` each."""

    replace: list[str]
    append: list[str]


def letters_of(text: str) -> Letters:
    """Takes a text apart."""
    letters: list[str] = []
    origins: list[int] = []
    for origin, character in enumerate(text):
        for letter in unicodedata.normalize("NFD", character):
            if letter.isspace():
                if not letters or letters[-1] == " ":
                    continue
                letter = " "
            letters.append(letter)
            origins.append(origin)
    if letters and letters[-1] == " ":
        letters.pop()
        origins.pop()
    return Letters(letters, origins)


def edits_to(letters: Sequence[str], corrected: str) -> Edits:
    """The fewest edits that turn letters into a correction; case is left as it is typed.

    Of the ways with as few single-letter edits the one that keeps the earliest letters, so that the same slip is always
    told alike. What is written between two kept letters is put behind the one before it where nothing is to go, and
    else takes the place of the first that goes.
    """
    source = [letter.casefold() for letter in letters]
    target = letters_of(corrected).letters
    replace, append = [KEEP] * (len(source) + 1), [KEEP] * (len(source) + 1)
    for place, written in _steps(source, [letter.casefold() for letter in target], target):
        if written is None:
            replace[place] = DELETE
        elif place > 0 and replace[place] == DELETE:
            replace[place] = written
        else:
            append[place] += written
    return Edits(replace, append)


def _steps(source: list[str], folded_target: list[str], target: list[str]) -> Iterable[tuple[int, str | None]]:
    """Letters that go (None) and letters written at places, from left to right; a replaced letter is both."""
    rows, columns = len(source) + 1, len(folded_target) + 1
    cost = [[0] * columns for _ in range(rows)]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            if i == rows - 1 or j == columns - 1:
                cost[i][j] = (rows - 1 - i) + (columns - 1 - j)
            elif source[i] == folded_target[j]:
                cost[i][j] = cost[i + 1][j + 1]
            else:
                cost[i][j] = 1 + min(cost[i + 1][j + 1], cost[i + 1][j], cost[i][j + 1])
    i = j = 0
    found: list[tuple[int, str | None]] = []
    while i < rows - 1 or j < columns - 1:
        both = i < rows - 1 and j < columns - 1
        if both and source[i] == folded_target[j]:
            i, j = i + 1, j + 1
        elif both and cost[i][j] == 1 + cost[i + 1][j + 1]:
            found += [(i + 1, None), (i + 1, target[j])]
            i, j = i + 1, j + 1
        elif i < rows - 1 and cost[i][j] == 1 + cost[i + 1][j]:
            found.append((i + 1, None))
            i += 1
        else:
            found.append((i, target[j]))
            j += 1
    return found


def edited(letters: Sequence[str], edits: Edits) -> str:
    """The text that edits make, as answers are kept (NFC, single spaces)."""
    written = []
    for letter, replaced, appended in zip(["", *letters], edits.replace, edits.append, strict=True):
        written.append(letter if replaced == KEEP else "" if replaced == DELETE else replaced)
        written.append(appended)
    return plain_text("".join(written))


def changes(source: str, text: str) -> bool:
    """Whether a text is a correction of a source: case, compatibility forms and runs of white space apart."""
    return folded(source) != folded(text)


@dataclass(frozen=True)
class Alphabet:
    """What a spelling head reads and writes.

    Attributes:
        letters: Letters that it tells apart, case folded; all others are one.
        replace: What a letter may become; :data:`KEEP` first.
        append: What may be put behind one; :data:`KEEP` first.
    """

    letters: tuple[str, ...]
    replace: tuple[str, ...]
    append: tuple[str, ...]

    PADDING = 0
    START = 1
    OTHER = 2

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, Sequence[str]]], *, fewest: int = 1) -> Alphabet:
        """Learns it from texts, each with its corrections.

        Args:
            pairs: Sources with what they are corrected to; one that changes nothing says nothing of edits.
            fewest: Corrections in which an edit has to occur.
        """
        letters: Counter[str] = Counter()
        replace: Counter[str] = Counter()
        append: Counter[str] = Counter()
        for source, corrections in pairs:
            own = letters_of(source).letters
            letters.update(letter.casefold() for letter in own)
            for text in corrections:
                if changes(source, text):
                    edits = edits_to(own, text)
                    replace.update(set(edits.replace) - {KEEP})
                    append.update(set(edits.append) - {KEEP})
        return cls(_ranked(letters), (KEEP, *_short(replace, fewest)), (KEEP, *_short(append, fewest)))

    @property
    def size(self) -> int:
        """Rows of an embedding of :meth:`ids`."""
        return len(self.letters) + 3

    def ids(self, letters: Sequence[str]) -> list[int]:
        """Numbers of letters, the place before the first included."""
        return [self.START, *(self._letter_ids.get(letter.casefold(), self.OTHER) for letter in letters)]

    def numbers(self, edits: Edits) -> tuple[list[int], list[int]] | None:
        """Edits as places in :attr:`replace` and :attr:`append`; None where one is not there."""
        try:
            return [self._replace_ids[one] for one in edits.replace], [self._append_ids[one] for one in edits.append]
        except KeyError:
            return None

    @cached_property
    def _letter_ids(self) -> dict[str, int]:
        return {letter: number for number, letter in enumerate(self.letters, start=3)}

    @cached_property
    def _replace_ids(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.replace)}

    @cached_property
    def _append_ids(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.append)}


def _ranked(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(counts, key=lambda text: (-counts[text], text)))


def _short(counts: Counter[str], fewest: int) -> list[str]:
    kept = [text for text in _ranked(counts) if counts[text] >= fewest and len(text) <= LONGEST_EDIT]
    return kept[:MOST_EDITS]
