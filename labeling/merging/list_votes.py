r"""Ranked lists merged by reciprocal-rank fusion, with one share a family.

Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods".
A text's score is

.. math:: s(d) = \sum_v w_v \frac{1}{k + r_v(d)}, \quad k = 60,

over the voters :math:`v` that name it, at rank :math:`r_v(d)` from 1; weights sum to one. Texts are the same where
their forms are (:func:`~distill.labeling.answers.locating.folded`), and the most frequent spelling stands for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from distill.labeling.answers.locating import folded, plain_text

RANK_CONSTANT = 60


class RankedText(NamedTuple):
    """A text of a merged list.

    Attributes:
        text: As most voters spell it.
        support: Weight of the voters that name it, in [0, 1].
        score: By which it is ranked.
    """

    text: str
    support: float
    score: float


def fuse_lists(votes: Sequence[tuple[float, Sequence[str]]]) -> list[RankedText]:
    """Merges ranked lists; the best first. Of equal scores the text with more support comes first, then by form.

    Args:
        votes: Weight and list of each voter; weights sum to one at most.
    """
    score: dict[str, float] = {}
    support: dict[str, float] = {}
    spelled: dict[str, list[str]] = {}
    for weight, texts in votes:
        forms = [folded(text) for text in texts]
        for rank, form in enumerate(dict.fromkeys(forms), start=1):
            score[form] = score.get(form, 0.0) + weight / (RANK_CONSTANT + rank)
            support[form] = support.get(form, 0.0) + weight
        for form, text in zip(forms, texts, strict=True):
            spelled.setdefault(form, []).append(text)
    order = sorted(score, key=lambda form: (-round(score[form], 12), -round(support[form], 9), form))
    return [RankedText(most_frequent(map(plain_text, spelled[form])), support[form], score[form]) for form in order]


def most_frequent(spelled: Iterable[str]) -> str:
    """The spelling that occurs most; of equals the first by alphabet."""
    times = Counter(spelled)
    return min(times, key=lambda text: (-times[text], text))
