"""Themes of disagreement: contested rows grouped by the clauses in play and by what the rows are about.

A row is two halves of equal weight: the clauses that its judges cite, rarer ones counting more, with the cause that it
was put to; and the words of its query, title and reasons (TF-IDF). Rows are joined by Ward's method, which is
deterministic, and the number of themes is the one, of two to eight, with the best silhouette (cosine).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, ratio_estimates
from distill.eval.metrics import Floats, Ints

if TYPE_CHECKING:
    from distill.eval.guideline.clauses import Cause
    from distill.eval.guideline.review import TellingRow

MOST_THEMES = 8
_FEWEST_ROWS = 20
_FEWEST_OF_A_THEME = 3
_WORDS = 3
_TELLING = 3


class Theme(Frozen):
    """Contested rows that are alike."""

    name: str = Field(description="the clause, or the border, that stands out, and the most telling words")
    clauses: tuple[str, ...] = Field(description="the cause that most of its rows were put to; empty where none")
    words: tuple[str, ...] = Field(description="words that its rows have more than other contested rows")
    border: str = Field(description="the two labels most often set against each other, such as exact|substitute")
    rows: int
    conflicts: int = Field(description="disagreeing pairs of judges")
    share: Estimate = Field(description="of the disagreeing pairs on all rows that were grouped")
    telling: tuple[str, ...] = Field(description="rows to read first")
    row_ids: tuple[str, ...]


def find_themes(
    telling: Sequence[TellingRow],
    causes: Sequence[Cause],
    *,
    labels: Sequence[str],
    config: EvalConfig,
    seed: int = 0,
) -> list[Theme]:
    """Groups contested rows, the theme with most disagreement first.

    Args:
        telling: Rows on which judges differ, most telling first.
        causes: The review's causes, to which ``TellingRow.cause`` points.
        labels: The task's labels, in order.
        config: Resamples and level of the shares' intervals.
        seed: Of the resamples.

    Returns:
        Eight themes at most; none where fewer than 20 rows are contested.
    """
    if len(telling) < _FEWEST_ROWS:
        return []
    words, vocabulary = _words(telling)
    vectors = np.concatenate([_unit(words), _unit(_cited(telling, len(causes)))], axis=1)
    member = _joined(vectors)
    conflicts = np.array([_conflicts(row) for row in telling], float)
    resamples = Resamples.of(np.array([row.group for row in telling]), count=config.bootstrap, seed=seed)
    flags = np.stack([member == number for number in range(member.max() + 1)], axis=1).astype(float)
    every = np.repeat(conflicts[:, None], flags.shape[1], axis=1)
    shares = ratio_estimates(flags * every, every, resamples, level=config.level)
    found = []
    for number, share in enumerate(shares):
        at = np.flatnonzero(member == number)
        own = [telling[k] for k in at.tolist()]
        cause = _cause(own, causes)
        said = _telling_words(words, vocabulary, at)
        border = _border(own, labels)
        found.append(
            Theme(
                name=f"{' against '.join(cause) if cause else border.replace('|', ' or ')}: {', '.join(said)}",
                clauses=cause,
                words=said,
                border=border,
                rows=len(own),
                conflicts=int(conflicts[at].sum()),
                share=share,
                telling=tuple(row.row_id for row in _most_telling(own, vectors[at])),
                row_ids=tuple(row.row_id for row in own),
            )
        )
    return sorted(found, key=lambda theme: (-theme.conflicts, theme.name))


def _words(telling: Sequence[TellingRow]) -> tuple[Floats, list[str]]:
    """TF-IDF of each row's words, ``[n, V]``: the first two inputs, and every reason."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

    texts = [
        " ".join([*list(row.inputs.values())[:2], *(voice.trace or "" for voice in row.said)]).casefold()
        for row in telling
    ]
    stop = sorted(set(ENGLISH_STOP_WORDS) | {voice.label for row in telling for voice in row.said})
    pattern = r"(?u)\b[^\W\d_][^\W_]+\b"
    vectorizer = TfidfVectorizer(
        stop_words=stop, token_pattern=pattern, min_df=2, max_df=0.8, sublinear_tf=True, max_features=2000
    )
    try:
        found = vectorizer.fit_transform(texts).toarray()
    except ValueError:  # no word is shared by two rows
        return np.zeros((len(telling), 1)), [""]
    return found, list(vectorizer.get_feature_names_out())


def _cited(telling: Sequence[TellingRow], causes: int) -> Floats:
    """Which clauses are cited on each row and which cause it was put to, ``[n, K + causes]``, rarer ones heavier."""
    ids = sorted({name for row in telling for voice in row.said for name in voice.clauses})
    flags = np.zeros((len(telling), len(ids) + causes))
    for line, row in enumerate(telling):
        for voice in row.said:
            for name in voice.clauses:
                flags[line, ids.index(name)] = 1.0
        if row.cause is not None:
            flags[line, len(ids) + row.cause] = 1.0
    rarity: Floats = np.log((1 + len(telling)) / (1 + flags.sum(axis=0))) + 1.0
    return flags * rarity


def _unit(vectors: Floats) -> Floats:
    if not vectors.shape[1]:
        return np.zeros((len(vectors), 1))
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = vectors / np.where(length > 0, length, 1.0)
    return scaled


def _joined(vectors: Floats) -> Ints:
    """Each row's theme, ``[n]``, at the number of themes with the best silhouette."""
    from scipy.cluster.hierarchy import cut_tree, ward  # type: ignore[import-untyped]
    from sklearn.metrics import silhouette_score

    from_all = np.zeros(len(vectors), np.int64)
    distinct = len(np.unique(vectors.round(9), axis=0))
    if distinct < 3:
        return from_all
    tree, best = ward(vectors), (-1.0, from_all)
    for number in range(2, min(MOST_THEMES, distinct - 1) + 1):
        member = cut_tree(tree, n_clusters=number)[:, 0].astype(np.int64)
        if np.bincount(member).min() < _FEWEST_OF_A_THEME:
            break
        score = float(silhouette_score(vectors, member))
        best = max(best, (score, member), key=lambda each: each[0])
    return best[1]


def _conflicts(row: TellingRow) -> int:
    labels = Counter(voice.label for voice in row.said)
    total = labels.total()
    return (total * total - sum(number * number for number in labels.values())) // 2


def _cause(own: Sequence[TellingRow], causes: Sequence[Cause]) -> tuple[str, ...]:
    """The cause of at least a third of the rows; where none is, nothing is claimed."""
    counts = Counter(row.cause for row in own if row.cause is not None)
    if not counts:
        return ()
    cause, number = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return causes[cause].clauses if 3 * number >= len(own) else ()


def _border(own: Sequence[TellingRow], labels: Sequence[str]) -> str:
    borders: Counter[str] = Counter()
    for row in own:
        given = {voice.label for voice in row.said}
        borders.update("|".join(pair) for pair in combinations([label for label in labels if label in given], 2))
    return min(borders.items(), key=lambda item: (-item[1], item[0]))[0]


def _telling_words(words: Floats, vocabulary: list[str], at: Ints) -> tuple[str, ...]:
    """Words with the largest mean weight inside beyond that outside."""
    inside = np.zeros(len(words), bool)
    inside[at] = True
    outside: Any = words[~inside].mean(axis=0) if not inside.all() else 0.0
    surplus = words[inside].mean(axis=0) - outside
    order = sorted(range(len(vocabulary)), key=lambda k: (-surplus[k], vocabulary[k]))
    return tuple(vocabulary[k] for k in order[:_WORDS] if surplus[k] > 0)


def _most_telling(own: list[TellingRow], vectors: Floats) -> list[TellingRow]:
    """Rows near the middle of the theme that have reasons to read, of different groups where there are such."""
    near = (vectors @ vectors.mean(axis=0)).round(9)
    order = sorted(range(len(own)), key=lambda k: (not any(voice.trace for voice in own[k].said), -near[k], k))
    seen: set[str] = set()
    first: list[TellingRow] = []
    again: list[TellingRow] = []
    for row in (own[k] for k in order):
        (again if row.group in seen else first).append(row)
        seen.add(row.group)
    return [*first, *again][:_TELLING]
