r"""A spelling corrector from a catalogue alone: no label, no query log needed.

For a typed query t it looks for the query q that is likeliest to have been meant,

.. math:: \hat q = \arg\max_q \; \log P(q) + \log P(t \mid q)

with P(q) from the catalogue's words and pairs of words (:class:`~distill.labeling.queries.word_counts.WordCounts`) and
P(t | q) a noisy channel (:class:`~distill.labeling.queries.typo_channel.TypoChannel`): Kernighan, Church & Gale 1990,
with context as in Brill & Moore 2000. Words may also be split in two, and two joined. It answers with the change only
where that is likelier than no change by a margin, since most queries need none, and a brand that the catalogue has
not is no misspelling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from distill.labeling.queries.hangul import keystrokes
from distill.labeling.queries.keyboards import wrong_layouts
from distill.labeling.queries.protected_spans import FindSpans, protected_spans
from distill.labeling.queries.query_words import Word, words
from distill.labeling.queries.typo_channel import TypoChannel
from distill.labeling.queries.word_counts import NearWords, WordCounts, other_number

_CANDIDATES = 12
_BEAM = 48
_SHORT = 5
_HOPELESS = -30.0
_SPARE = 8
"""Paths kept beyond those wanted: later words may turn their order."""


@dataclass(frozen=True)
class SpellingOptions:
    """How careful a corrector is.

    Attributes:
        margin: Log odds that a change of the query has to reach.
        known_margin: What each changed word that the catalogue knows costs besides, in log odds.
        known_count: From how many occurrences on the catalogue knows a word.
        fewest_keys: Words with fewer keys are not changed on their own.
        spaces: Whether words may be split and joined.
    """

    margin: float = 2.0
    known_margin: float = 6.0
    known_count: int = 2
    fewest_keys: int = 4
    spaces: bool = True


class Change(NamedTuple):
    """What was replaced: characters ``start`` to ``end`` of the query, and by what."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Correction:
    """A query with its spelling set right.

    Attributes:
        text: The query, with nothing but the changed words changed.
        changes: What was changed; empty where nothing was.
        log_odds: How much likelier than no change the best change is (natural log, without margins); negative where
            none is likelier, ``-inf`` where there is none.
    """

    text: str
    changes: tuple[Change, ...]
    log_odds: float


class Reading(NamedTuple):
    """A query that may have been meant, other than the one typed.

    Attributes:
        text: The query with the changed words changed.
        changes: What was changed, from left to right; never empty.
        log_odds: How much likelier than no change (natural log, without margins).
        channel: The share of the slips in that: log P(typed | meant) less log P(typed | typed), over what was changed.
        known: How many of the typed words that were changed the catalogue knows.
    """

    text: str
    changes: tuple[Change, ...]
    log_odds: float
    channel: float
    known: float


class _Step(NamedTuple):
    """Some typed words read as some meant ones; ``likely`` is log P(typed | meant)."""

    typed: int
    meant: tuple[str, ...]
    likely: float
    change: Change | None = None
    penalty: float = 0.0


class _Path(NamedTuple):
    """Words read so far: their log probability, what known words cost besides, and what was changed."""

    score: float
    penalty: float
    changes: tuple[Change, ...]

    @property
    def worth(self) -> float:
        return self.score - self.penalty

    def after(self, step: _Step, log_words: float) -> _Path:
        changes = self.changes if step.change is None else (*self.changes, step.change)
        return _Path(self.score + step.likely + log_words, self.penalty + step.penalty, changes)


class SpellingCorrector:
    """Corrects queries with the words of a catalogue; a labeling function for the task ``spelling``.

    Args:
        counts: Words of the catalogue's titles (and of brands, where they are not in the titles).
        channel: How slips happen.
        find_brands: Spans of brands in a query, which stay as they are besides numbers, units and model numbers.
        options: How careful it is.
    """

    def __init__(
        self,
        counts: WordCounts,
        *,
        channel: TypoChannel | None = None,
        find_brands: FindSpans | None = None,
        options: SpellingOptions | None = None,
    ) -> None:
        self.counts = counts
        self.channel = channel or TypoChannel()
        self.options = options or SpellingOptions()
        self._find_brands = find_brands
        known = list(counts.with_plurals(fewest=self.options.known_count))
        self._known = frozenset(known)
        self._near = NearWords(known)
        self._log_channel = lru_cache(maxsize=262_144)(self.channel.log_prob)
        self.candidates: Callable[[str], tuple[tuple[str, float], ...]] = lru_cache(maxsize=65_536)(self._candidates)

    def correct(self, query: str) -> Correction:
        """The query that was most likely meant."""
        found = words(query)
        best = self._best_change(found, protected_spans(query, self._find_brands))
        if best is None:
            return Correction(query, (), float("-inf"))
        odds = best.score - self._unchanged(found)
        if odds - best.penalty <= self.options.margin:
            return Correction(query, (), odds)
        return Correction(_replaced(query, best.changes), best.changes, odds)

    def __call__(self, query: str) -> str:
        """The corrected text alone."""
        return self.correct(query).text

    def readings(self, query: str, *, most: int = 8) -> list[Reading]:
        """The likeliest changed queries, whether likelier than no change or not: what a model may choose among.

        A beam search over what :meth:`correct` searches, so that readings differ in any word and not in the last alone.

        Args:
            query: As typed.
            most: Readings, at most.
        """
        found = words(query)
        free = _free(found, protected_spans(query, self._find_brands))
        reached: list[list[tuple[_Path, str]]] = [[] for _ in range(len(found) + 1)]
        reached[0].append((_Path(0.0, 0.0, ()), ""))
        for at in range(len(found)):
            steps = list(self._steps(found, free, at))
            for path, before in sorted(reached[at], key=lambda one: -one[0].worth)[: most + _SPARE]:
                for step in steps:
                    longer = path.after(step, self._log_words(before, step.meant))
                    reached[at + step.typed].append((longer, step.meant[-1]))
        unchanged = self._unchanged(found)
        kept: dict[str, Reading] = {}
        for path, _ in sorted(reached[-1], key=lambda one: -one[0].worth):
            if path.changes and len(kept) < most:
                text = _replaced(query, path.changes)
                odds = path.score - unchanged
                reading = Reading(text, path.changes, odds, self._channel_odds(query, path.changes), 0.0)
                kept.setdefault(text, reading._replace(known=path.penalty / max(self.options.known_margin, 1e-9)))
        return list(kept.values())

    def _channel_odds(self, query: str, changes: Iterable[Change]) -> float:
        total = 0.0
        for change in changes:
            typed = query[change.start : change.end]
            total += self._log_channel(typed, change.text) - self._log_channel(typed, typed)
        return total

    def _best_change(self, found: Sequence[Word], fixed: Sequence[tuple[int, int]]) -> _Path | None:
        """The likeliest way through the words that changes at least one (Viterbi, by the last word meant)."""
        free = _free(found, fixed)
        # What was reached after so many words: by whether something was changed, and the last word meant.
        reached: list[dict[tuple[bool, str], _Path]] = [{} for _ in range(len(found) + 1)]
        reached[0][False, ""] = _Path(0.0, 0.0, ())
        for at in range(len(found)):
            paths = _likeliest(reached[at])
            for step in self._steps(found, free, at):
                for (changed, before), path in paths:
                    ahead = reached[at + step.typed]
                    key = changed or step.change is not None, step.meant[-1]
                    longer = path.after(step, self._log_words(before, step.meant))
                    if key not in ahead or longer.worth > ahead[key].worth:
                        ahead[key] = longer
        changes = [path for (changed, _), path in reached[-1].items() if changed]
        return max(changes, key=lambda path: path.worth, default=None)

    def _steps(self, found: Sequence[Word], free: Sequence[bool], at: int) -> Iterator[_Step]:
        """Ways on from a word: as it is, as another word or two, or joined with the next."""
        word = found[at]
        yield _Step(1, (word.text,), self._log_channel(word.text, word.text))
        if not free[at]:
            return
        penalty = self.options.known_margin * (word.text in self._known)
        if len(keystrokes(word.text)) >= self.options.fewest_keys:
            for meant, likely in self.candidates(word.text):
                yield _Step(1, tuple(meant.split(" ")), likely, Change(word.start, word.end, meant), penalty)
        if not self.options.spaces or at + 1 == len(found) or not free[at + 1]:
            return
        following = found[at + 1]
        joined = word.text + following.text
        # Words with more than one character between them are no slip of the space bar.
        if joined in self._known and following.start == word.end + 1:
            penalty += self.options.known_margin * (following.text in self._known)
            likely = self._log_channel(f"{word.text} {following.text}", joined)
            yield _Step(2, (joined,), likely, Change(word.start, following.end, joined), penalty)

    def _candidates(self, typed: str) -> tuple[tuple[str, float], ...]:
        """Words, or two words with a space between, that may have been meant; likeliest first, at most twelve."""
        found: dict[str, float] = {}
        layouts = [word for word in wrong_layouts(typed) if word in self._known]
        # Two slips in a short word, or from one word to another that is there, are never the likelier reading.
        edits = 1 if typed in self._known or len(keystrokes(typed)) <= _SHORT else 2
        for word in [*self._near.near(typed, edits=edits), *layouts]:
            if word != other_number(typed):  # a plural is no misspelling
                found[word] = self._log_channel(typed, word)
        if self.options.spaces:
            for cut in range(2, len(typed) - 1):
                pair = (typed[:cut], typed[cut:])
                if self.counts.pairs.get(pair, 0) >= self.options.known_count:
                    found[" ".join(pair)] = self._log_channel(typed, " ".join(pair))
        likely = ((word, score) for word, score in found.items() if score > _HOPELESS)
        ranked = sorted(likely, key=lambda one: (-one[1] - self._log_words("", one[0].split(" ")), one[0]))
        return tuple(ranked[:_CANDIDATES])

    def _log_words(self, before: str, texts: Iterable[str]) -> float:
        total = 0.0
        for text in texts:
            total += self.counts.log_prob(text, before)
            before = text
        return total

    def _unchanged(self, found: Sequence[Word]) -> float:
        typed = sum(self._log_channel(word.text, word.text) for word in found)
        return typed + self._log_words("", [word.text for word in found])


def _free(found: Sequence[Word], fixed: Sequence[tuple[int, int]]) -> list[bool]:
    """Of each word, whether it may be changed."""
    return [not any(start < word.end and word.start < end for start, end in fixed) for word in found]


def _likeliest(paths: dict[tuple[bool, str], _Path]) -> list[tuple[tuple[bool, str], _Path]]:
    return sorted(paths.items(), key=lambda one: -one[1].worth)[:_BEAM]


def _replaced(query: str, changes: Iterable[Change]) -> str:
    for change in sorted(changes, reverse=True):
        query = query[: change.start] + change.text + query[change.end :]
    return query
