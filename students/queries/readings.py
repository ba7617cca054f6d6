"""What a query may have meant, by the words of a shop's titles: what a spelling student with a corrector chooses among.

A network that edits letters has to know every word of the shop by heart. With a corrector it need not: the noisy
channel of :mod:`distill.labeling.queries.spelling` finds the words that are near, and the network, which sees them
beside the query, says which was meant, and whether any was. The words go into the student's folder, so that it reads
new queries alone.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from distill.labeling.answers.locating import folded, plain_text
from distill.labeling.errors import StudentError
from distill.labeling.queries.catalogue_file import read_titles
from distill.labeling.queries.query_words import has_digit, words
from distill.labeling.queries.spelling import Change, Reading, SpellingCorrector, SpellingOptions
from distill.labeling.queries.word_counts import WordCounts
from distill.students.queries.config import CorrectorSection

WORDS_FILE = "words.json.gz"
"""In a student's folder: the words and pairs of words of the titles."""
NUMBERS = (
    "real",
    "unchanged",
    "odds",
    "known",
    "channel",
    "changes",
    "meant",
    "typed",
    "unknown",
    "unread",
    "split",
    "joined",
    "first",
    "ending",
    "letters",
    "typed_whole",
    "written_whole",
)
"""What is known of a reading.

``real``: there is one. ``unchanged``: it is the query as typed, of which only ``unknown`` and ``unread`` are known
besides. ``odds``: log odds over the query as typed, in tens; ``channel``: the slips' share of them. ``known``: how many
of the words changed titles know, and ``changes`` how many were. ``meant``, ``typed``: how often the rarest word written
and the commonest changed stand in titles, log of 1 + count, in tens. ``unknown``: words that titles do not know after
the change; ``unread``: those that the base reads in several pieces. ``split``, ``joined``: a space more or less.
``first``: a first letter changed; ``ending``: nothing before the last two letters did. ``letters``: of the shortest
word changed, in tens. ``typed_whole``, ``written_whole``: the base reads a changed word, and all those written, whole.
"""
_TENS = 10.0
_FARTHEST = 30.0
_ENDING = 2
_USUAL = SpellingOptions()
_LOOSE = SpellingOptions(known_count=1, fewest_keys=3)
"""Looser than a corrector that answers by itself: words of three letters, and words that stand in one title. Of 753
changes that a large model made to a shop's queries six readings hold 84% with these, and 80% without."""
FIRST_WEIGHTS = tuple(
    {"unchanged": _USUAL.margin, "odds": _TENS, "known": -_USUAL.known_margin}.get(name, 0.0) for name in NUMBERS
)
"""The weight of each number with which a choice is the corrector's own: odds less margins. Fitted to the training rows
before the network learns, see :mod:`distill.students.queries.reading_fit`."""


class Readings:
    """Finds them.

    Args:
        counts: Words of the titles.
        most: Readings of a query beside itself.
    """

    def __init__(self, counts: WordCounts, *, most: int) -> None:
        self.counts = counts
        self.most = most
        self._known = _USUAL.known_count
        self._corrector = SpellingCorrector(counts, options=_LOOSE)
        self.of = lru_cache(maxsize=65_536)(self._of)

    @classmethod
    def from_section(cls, section: CorrectorSection) -> Readings:
        """Counts the words of a section's titles.

        Raises:
            StudentError: No titles are named.
            DataError: They cannot be read.
        """
        if section.titles is None:
            raise StudentError(
                "corrector: no titles, got neither corrector.titles nor a recipe's data.catalogue; name a file of them"
            )
        return cls(
            WordCounts.of(read_titles(section.titles, section.column, key="corrector.titles")), most=section.readings
        )

    @classmethod
    def load(cls, folder: Path) -> Readings:
        """Reads what :meth:`save` wrote.

        Raises:
            StudentError: It is not whole.
        """
        try:
            with gzip.open(folder / WORDS_FILE, "rt", encoding="utf-8") as file:
                found = json.load(file)
            counts = WordCounts.from_counts(found["words"], map(tuple, found["pairs"]))
            return cls(counts, most=found["readings"])
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            raise StudentError(f"{folder / WORDS_FILE}: not whole ({error}); train the student again") from error

    def save(self, folder: Path) -> None:
        """Writes the words; the same words give the same bytes."""
        said: dict[str, Any] = {
            "readings": self.most,
            "words": self.counts.words,
            "pairs": [(first, second, count) for (first, second), count in self.counts.pairs.items()],
        }
        text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
        (folder / WORDS_FILE).write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))

    def _of(self, query: str) -> tuple[Reading, ...]:
        found = self._corrector.readings(query, most=self.most)
        return tuple(one for one in found if folded(one.text) != folded(query))

    def numbers(self, query: str, *, whole: Callable[[str], bool]) -> np.ndarray:
        """``[1 + most, len(NUMBERS)]``: what is known of the query as typed, and of its readings.

        Args:
            query: As typed.
            whole: Whether the base reads a word as one piece, as it does those that are frequent in its language.
        """
        table = np.zeros((1 + self.most, len(NUMBERS)), dtype=np.float32)
        table[0, :2] = 1.0
        table[0, NUMBERS.index("unknown") : NUMBERS.index("unread") + 1] = self._strange(query, whole)
        for line, one in enumerate(self.of(query), start=1):
            typed = [query[change.start : change.end].casefold() for change in one.changes]
            meant = [change.text for change in one.changes]
            pairs = list(zip(typed, meant, strict=True))
            table[line] = (
                1.0,
                0.0,
                _tens(one.log_odds),
                one.known,
                _tens(one.channel),
                len(pairs),
                min(self._often(text) for text in meant),
                max(self._often(text) for text in typed),
                *self._strange(one.text, whole),
                any(before.count(" ") < after.count(" ") for before, after in pairs),
                any(before.count(" ") > after.count(" ") for before, after in pairs),
                any(before[:1] != after[:1] for before, after in pairs),
                any(after.startswith(before[:-_ENDING]) for before, after in pairs),
                min(map(len, typed)) / _TENS,
                any(all(map(whole, _plain_words(text))) for text in typed),
                all(all(map(whole, _plain_words(text))) for text in meant),
            )
        return table

    def nearest(self, query: str, correction: str) -> int:
        """Which reading a correction is, from 1; 0 for the query as typed.

        The one that says the same; else, of those all of whose changes the correction makes too, the one that makes
        most; else none is better than the query.
        """
        meant = folded(correction)
        best, most = 0, 0
        for line, one in enumerate(self.of(query), start=1):
            if folded(one.text) == meant:
                return line
            if len(one.changes) > most and all(_makes(correction, query, change) for change in one.changes):
                best, most = line, len(one.changes)
        return best

    def text(self, query: str, line: int) -> str:
        """The text of a reading, as answers are kept."""
        return plain_text(query if line == 0 else self.of(query)[line - 1].text)

    def _often(self, text: str) -> float:
        counts = [self.counts.words.get(word, 0) for word in _plain_words(text)]
        return math.log1p(min(counts, default=0)) / _TENS

    def _strange(self, text: str, whole: Callable[[str], bool]) -> tuple[int, int]:
        found = _plain_words(text)
        unknown = sum(self.counts.words.get(word, 0) < self._known for word in found)
        return unknown, sum(not whole(word) for word in found)


def _plain_words(text: str) -> list[str]:
    return [word.text for word in words(text) if not has_digit(word.text)]


def _tens(log_odds: float) -> float:
    """Log odds in tens; those of what a channel calls impossible are as far down as anything goes."""
    return min(max(log_odds, -_FARTHEST), _FARTHEST) / _TENS


def written(readings: Sequence[Reading]) -> tuple[str, list[tuple[int, int]]]:
    """The words that readings put in, as one text, and where in it those of each stand."""
    text, places = "", []
    for one in readings:
        own = " ".join(change.text for change in one.changes)
        start = len(text) + bool(text)
        text = f"{text} {own}" if text else own
        places.append((start, start + len(own)))
    return text, places


def _makes(correction: str, query: str, change: Change) -> bool:
    """Whether a correction has what a change writes, in the place of what was typed."""
    own, before = f" {folded(correction)} ", folded(query[change.start : change.end])
    return f" {folded(change.text)} " in own and f" {before} " not in own
