r"""Texts merged: the answer that most families agree on, or the one that is nearest to all.

Answers are compared after normalisation (Unicode NFKC, case, white space). If one answer has more than half of the
weight it wins. Else the medoid does: the answer whose mean distance to all others, by weight, is least,

.. math:: m = \arg\min_a \sum_b w_b \, d(a, b)

with :math:`d` the Levenshtein distance of tokens (or of characters) over the length of the longer one, in [0, 1]. The
text returned is always one that somebody gave, in its most frequent spelling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Literal, NamedTuple

from distill.labeling.answers.locating import folded
from distill.labeling.merging.list_votes import most_frequent

Unit = Literal["tokens", "characters"]


class MergedText(NamedTuple):
    """The merged text of a row.

    Attributes:
        text: One that somebody gave.
        share: Weight of those who gave it.
        tie: Whether another text has as much weight.
        candidates: Every text given, with its weight, the greatest first.
    """

    text: str
    share: float
    tie: bool
    candidates: list[tuple[str, float]]


def vote_texts(votes: Sequence[tuple[float, str]], *, unit: Unit = "tokens") -> MergedText:
    """The merged text of one row, from weights and texts; weights sum to one, or less where voters are unsure.

    Args:
        votes: Of each voter; at least one.
        unit: What distances count.
    """
    weight: dict[str, float] = {}
    spelled: dict[str, list[str]] = {}
    for loud, text in votes:
        key = folded(text)
        weight[key] = weight.get(key, 0.0) + loud
        spelled.setdefault(key, []).append(text.strip())
    top = max(weight, key=weight.__getitem__)
    if weight[top] <= 0.5 * sum(weight.values()) + 1e-9:
        top = _medoid(weight, unit)
    ranked = sorted(weight, key=lambda key: (-round(weight[key], 9), key != top, key))
    tie = any(key != top and weight[key] >= weight[top] - 1e-9 for key in weight)
    candidates = [(most_frequent(spelled[key]), weight[key]) for key in ranked]
    return MergedText(most_frequent(spelled[top]), weight[top], tie, candidates)


def _medoid(weight: Mapping[str, float], unit: Unit) -> str:
    """The text nearest to all; of equals that with more weight, then the first by alphabet."""
    parts = {key: _units(key, unit) for key in weight}
    apart = {}
    for one, other in combinations_with_replacement(weight, 2):
        apart[one, other] = apart[other, one] = _distance(parts[one], parts[other])
    cost = {key: sum(share * apart[key, other] for other, share in weight.items()) for key in weight}
    return min(weight, key=lambda key: (round(cost[key], 9), -weight[key], key))


def _units(text: str, unit: Unit) -> list[str]:
    return text.split() if unit == "tokens" else list(text)


def _distance(one: Sequence[str], other: Sequence[str]) -> float:
    """Levenshtein distance over the length of the longer one; 0 for two that are empty."""
    longer = max(len(one), len(other))
    # What both begin and end with is no part of the distance, and is most of two texts that mean the same.
    same = next((at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), None)
    if same is None:
        return abs(len(one) - len(other)) / longer if longer else 0.0
    one, other = one[same:], other[same:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    before = list(range(len(other) + 1))
    for row, left in enumerate(one, start=1):
        now = [row]
        for column, right in enumerate(other, start=1):
            now.append(min(now[-1] + 1, before[column] + 1, before[column - 1] + (left != right)))
        before = now
    return before[-1] / longer
