"""How often words stand in a catalogue's titles and follow one another: what a spelling corrector takes for right."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from distill.labeling.queries.hangul import keystrokes
from distill.labeling.queries.letter_model import LetterModel
from distill.labeling.queries.query_words import has_digit, words

_PREFIX = 7
_OTHER_NUMBER = 0.2
_LATIN = re.compile("[a-z]{4,}")
NUMBER = "#"
"""Stands for any word with a digit among a word's surroundings: which number it is says nothing."""


class WordCounts:
    r"""Words and pairs of words of texts, as a language model.

    .. math:: P(w \mid v) = \lambda \frac{c(v, w)}{c(v)} + (1 - \lambda) P(w), \quad P(w) = \frac{c(w)}{N + U}

    with λ = ``c(v) / (c(v) + T(v))``, T(v) the number of different words (and ends) seen after v (Witten & Bell 1991),
    and U the number of words seen once: the mass of the unseen (Good 1953), which they share by how likely their
    spelling is (:class:`~distill.labeling.queries.letter_model.LetterModel`).

    Titles are mostly in the singular and queries often in the plural: a Latin word that was not seen, but was with or
    without an ``s`` at its end, has a fifth of that one's counts.

    Attributes:
        words: Count by word; words with a digit are not among them.
        pairs: Count by pair of words in a row.
    """

    def __init__(self) -> None:
        self.words: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        self._before: Counter[str] = Counter()
        self._followers: Counter[str] = Counter()
        self._total = 0
        self._once = 1
        self._letters = LetterModel(())
        self.log_prob: Callable[[str, str], float] = lru_cache(maxsize=262_144)(self._log_prob)

    @classmethod
    def of(cls, titles: Iterable[str]) -> WordCounts:
        """Counts the words of titles. Equal titles count once: a listing that is there ten times is one witness.

        Queries are no such witness: a misspelled one would vouch for itself.
        """
        counts = cls()
        for text in dict.fromkeys(titles):
            counts._add(text)
        counts._finish()
        return counts

    @classmethod
    def from_counts(cls, words: Mapping[str, int], pairs: Iterable[tuple[str, str, int]]) -> WordCounts:
        """What :attr:`words` and :attr:`pairs` of another say, ``pairs`` as first, second and count."""
        counts = cls()
        counts.words.update(words)
        counts.pairs.update({(first, second): count for first, second, count in pairs})
        counts._finish()
        return counts

    def with_plurals(self, *, fewest: int) -> Iterator[str]:
        """Words that titles hold at least ``fewest`` times, each also with or without its ``s``."""
        known = [word for word, count in self.words.items() if count >= fewest]
        yield from known
        yield from dict.fromkeys(
            other for word in known if (other := other_number(word)) and self.words.get(other, 0) < fewest
        )

    def _add(self, text: str) -> None:
        found = [NUMBER if has_digit(word.text) else word.text for word in words(text)]
        self.words.update(word for word in found if word != NUMBER)
        self.pairs.update(zip(["", *found], [*found, ""], strict=True))

    def _finish(self) -> None:
        for (word, _), count in self.pairs.items():
            self._before[word] += count
            self._followers[word] += 1
        self._total = self.words.total()
        self._once = max(1, sum(count == 1 for count in self.words.values()))
        self._letters = LetterModel(self.words)

    def _log_prob(self, word: str, before: str) -> float:
        """Natural log of P(word | the word before it); ``""`` for the beginning. Any two words with a digit are one."""
        word, before = (NUMBER if has_digit(one) else one for one in (word, before))
        kept = 1.0
        if word not in self.words and (other := other_number(word)) in self.words:
            word, kept = str(other), _OTHER_NUMBER
        if before not in self.words and (other := other_number(before)) in self.words:
            before = str(other)
        share = kept * self._share(word)
        if not (given := self._before.get(before, 0)):
            return math.log(share)
        trust = given / (given + self._followers[before])
        return math.log(trust * kept * self.pairs.get((before, word), 0) / given + (1 - trust) * share)

    def _share(self, word: str) -> float:
        if seen := self.words.get(word, 0):
            return seen / (self._total + self._once)
        # Numbers are context only: no candidate competes with one, so that any constant does.
        spelling = 0.0 if word == NUMBER else self._letters.log_prob(word)
        return self._once / (self._total + self._once) * math.exp(spelling)


def other_number(word: str) -> str | None:
    """A Latin word with an ``s`` at its end without it, or one without with it; None where that is no plural."""
    if not _LATIN.fullmatch(word):
        return None
    if word.endswith("s"):
        return None if word.endswith(("ss", "us", "is")) else word[:-1]
    return None if word.endswith(("x", "z", "ch", "sh", "y")) else word + "s"


class NearWords:
    """Finds words within two edits of keys, by deletes on both sides (Garbe 2012, "SymSpell").

    A word and a typed one that are at most two edits apart share a form that is left when up to two keys are deleted
    from the first seven of each. Hangul is compared in keystrokes.

    Args:
        vocabulary: The words that may be found.
        edits: Deletes on each side, at most.
    """

    def __init__(self, vocabulary: Iterable[str], *, edits: int = 2) -> None:
        self.words = list(vocabulary)
        self.edits = edits
        self._bags = [Counter(keystrokes(word)) for word in self.words]
        self._by_form: dict[str, list[int]] = {}
        for place, word in enumerate(self.words):
            for form in _deleted(keystrokes(word)[:_PREFIX], edits):
                self._by_form.setdefault(form, []).append(place)

    def near(self, word: str, *, edits: int | None = None) -> Iterator[str]:
        """Words that share a form with a typed one and have nearly the same letters; each once.

        Letters that one has and the other has not bound the edits between them from below (the bag distance of
        Bartolini, Ciaccia & Patella 2002). Some words found are farther away: who scores them sees that.
        """
        edits = self.edits if edits is None else min(edits, self.edits)
        keys = keystrokes(word)
        bag = Counter(keys)
        places: set[int] = set()
        for form in _deleted(keys[:_PREFIX], edits):
            places.update(self._by_form.get(form, ()))
        for place in sorted(places):
            found = self.words[place]
            if found != word and _bag_distance(bag, self._bags[place]) <= edits:
                yield found


def _bag_distance(one: Counter[str], other: Counter[str]) -> int:
    return max((one - other).total(), (other - one).total())


def _deleted(keys: str, edits: int) -> set[str]:
    forms, latest = {keys}, {keys}
    for _ in range(edits):
        latest = {form[:at] + form[at + 1 :] for form in latest for at in range(len(form)) if len(form) > 1}
        forms |= latest
    return forms
