r"""A spelling corrector from a catalogue alone: no label, no query log needed.

For a typed query t it looks for the query q that is likeliest to have been meant,

.. math:: \hat q = \arg\max_q \; \log P(q) + \log P(t \mid q)

with P(q) from the catalogue's words and pairs of words (:class:`~distill.labeling.word_counts.WordCounts`) and
P(t | q) a noisy channel (:class:`~distill.labeling.typo_channel.TypoChannel`): Kernighan, Church & Gale 1990, with
context as in Brill & Moore 2000. Words may also be split in two, and two joined. It answers with the change only
where that is likelier than no change by a margin, since most queries need none, and a brand that the catalogue has
not is no misspelling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from distill.labeling.hangul import keystrokes
from distill.labeling.keyboards import wrong_layouts
from distill.labeling.protected_spans import FindSpans, protected_spans
from distill.labeling.query_words import Word, words
from distill.labeling.typo_channel import TypoChannel
from distill.labeling.word_counts import NearWords, WordCounts, other_number

_CANDIDATES = 12
_BEAM = 24
_SHORT = 5
_HOPELESS = -30.0


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


class _Path(NamedTuple):
    score: float
    penalty: float
    changes: tuple[Change, ...]


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
        fixed = protected_spans(query, self._find_brands)
        free = [not any(start < word.end and word.start < end for start, end in fixed) for word in found]
        beams: list[dict[str, _Path]] = [{} for _ in range(len(found) + 1)]
        unchanged = self._unchanged(found)
        beams[0][""] = _Path(0.0, 0.0, ())
        changed: list[dict[str, _Path]] = [{} for _ in range(len(found) + 1)]
        for at in range(len(found)):
            for width, texts, likely in self._steps(found, free, at):
                change = width != len(texts) or texts != [word.text for word in found[at : at + width]]
                span = Change(found[at].start, found[at + width - 1].end, " ".join(texts))
                cost = sum(self.options.known_margin for word in found[at : at + width] if word.text in self._known)
                for source in (beams, changed):
                    target = changed if change or source is changed else beams
                    for before, path in _best(source[at]):
                        score = path.score + likely + self._log_words(before, texts)
                        step = _Path(score, path.penalty + cost * change, (*path.changes, *([span] * change)))
                        _keep(target[at + width], texts[-1], step)
        best = max(changed[-1].values(), key=lambda path: path.score - path.penalty, default=None)
        if best is None:
            return Correction(query, (), float("-inf"))
        odds = best.score - unchanged
        if odds - best.penalty <= self.options.margin:
            return Correction(query, (), odds)
        return Correction(_replaced(query, best.changes), best.changes, odds)

    def __call__(self, query: str) -> str:
        """The corrected text alone."""
        return self.correct(query).text

    def _steps(self, found: list[Word], free: list[bool], at: int) -> Iterator[tuple[int, list[str], float]]:
        """Ways on from a word: how many typed words it takes, the words meant, and log P(typed | meant)."""
        typed = found[at].text
        yield 1, [typed], self._log_channel(typed, typed)
        if not free[at]:
            return
        if len(keystrokes(typed)) >= self.options.fewest_keys:
            for word, likely in self.candidates(typed):
                yield 1, word.split(" "), likely
        # Words with a hyphen or a slash between them are no slip of the space bar.
        if self.options.spaces and at + 1 < len(found) and free[at + 1] and found[at + 1].start == found[at].end + 1:
            joined = typed + found[at + 1].text
            if joined in self._known:
                yield 2, [joined], self._log_channel(f"{typed} {found[at + 1].text}", joined)

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

    def _unchanged(self, found: list[Word]) -> float:
        typed = sum(self._log_channel(word.text, word.text) for word in found)
        return typed + self._log_words("", [word.text for word in found])


def _best(paths: dict[str, _Path]) -> list[tuple[str, _Path]]:
    if len(paths) <= _BEAM:
        return list(paths.items())
    return sorted(paths.items(), key=lambda one: one[1].penalty - one[1].score)[:_BEAM]


def _keep(paths: dict[str, _Path], last: str, step: _Path) -> None:
    if last not in paths or step.score - step.penalty > paths[last].score - paths[last].penalty:
        paths[last] = step


def _replaced(query: str, changes: Iterable[Change]) -> str:
    for change in sorted(changes, reverse=True):
        query = query[: change.start] + change.text + query[change.end :]
    return query
