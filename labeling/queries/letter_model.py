"""How likely a spelling is for a word that was never seen: a brand, a model's name, or a slip."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from distill.labeling.queries.hangul import keystrokes

_ORDER = 3
_BEGIN, _END = "\x02", "\x03"
_LETTERS = 40.0
"""Roughly the letters of an alphabet, end of word included: what the shortest context backs off to, evenly."""


class LetterModel:
    r"""P(spelling) of a word from words of the same language, letter by letter (Hangul in keystrokes).

    A trigram of letters with Witten-Bell interpolation: each context's estimate is mixed with that of the context
    without its first letter, :math:`P(x | c) = (n(c, x) + T(c) P(x | c')) / (n(c) + T(c))`, T(c) the number of
    different letters after c, down to an even share of 1/40. Sums to one over all spellings in 39 letters.

    Args:
        vocabulary: Words, each counting once: new words are like rare words, not like frequent ones.
    """

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self._after: Counter[tuple[str, str]] = Counter()
        self._seen: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        for word in vocabulary:
            letters = _BEGIN * (_ORDER - 1) + keystrokes(word) + _END
            for at in range(_ORDER - 1, len(letters)):
                for length in range(_ORDER):
                    self._after[letters[at - length : at], letters[at]] += 1
        for (context, _), count in self._after.items():
            self._seen[context] += count
            self._kinds[context] += 1

    def log_prob(self, word: str) -> float:
        """Natural log of P(spelling)."""
        letters = _BEGIN * (_ORDER - 1) + keystrokes(word) + _END
        return sum(math.log(self._letter(letters, at)) for at in range(_ORDER - 1, len(letters)))

    def _letter(self, letters: str, at: int) -> float:
        likely = 1 / _LETTERS
        for length in range(_ORDER):
            context = letters[at - length : at]
            if seen := self._seen.get(context, 0):
                kinds = self._kinds[context]
                likely = (self._after.get((context, letters[at]), 0) + kinds * likely) / (seen + kinds)
        return likely
