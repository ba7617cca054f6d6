r"""Several labels merged: each label by a vote of its own.

A voter gives each label that it names its weight, times how sure it is; a branch of a tree is shared evenly among the
labels below it. The sum is the label's probability of being among the answers,

.. math:: m(label) = \sum_v w_v \, c_v \, share_v(label),

and labels with more than the threshold are the merged answer. Probabilities add up along the path: where a branch has
more than the threshold and no label of it does, voters agree on the branch and not on the shelf, and its most probable
label is taken, as a tie. Where nothing reaches the threshold the most probable label is taken, unless more weight says
that there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from distill.labeling.category_tree import CategoryTree, path_of

THRESHOLD = 0.5
_TIED = 1e-9


class SeveralMerged(NamedTuple):
    """What a row's votes come to.

    Attributes:
        labels: In the order of the set.
        marginals: Probability of each label that has any, the most probable first.
        agreement: Mean over the labels that anybody named of how probable the merged decision on each is; of an empty
            answer, the weight that says so.
        tie: Whether a label stood on the line, or was taken without reaching it beside one as probable.
    """

    labels: list[str]
    marginals: dict[str, float]
    agreement: float
    tie: bool


class LabelVote:
    """Merges the votes of a row, and of the next one.

    Args:
        labels: The set, in order.
        tree: Of the set, where it is one.
        frequency: How frequent labels are over all rows, by which equals are told apart.
        threshold: A label is in the answer with more than this.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        tree: CategoryTree | None = None,
        frequency: Mapping[str, float] | None = None,
        threshold: float = THRESHOLD,
    ) -> None:
        self._order = {label: place for place, label in enumerate(labels)}
        self._labels = labels
        self._tree = tree
        self._frequency = frequency or {}
        self._threshold = threshold
        self._paths: dict[str, list[str]] = {}

    def merge(self, votes: Sequence[tuple[float, float, Sequence[str]]]) -> SeveralMerged:
        """Merges the votes of one row.

        Args:
            votes: Weight, confidence and labels of each voter; weights sum to one.
        """
        mass: dict[str, float] = {}
        nodes: dict[str, float] = {}
        nothing = 0.0
        for weight, sure, named in votes:
            nothing += 0.0 if named else weight * sure
            for name, share in self._given(named).items():
                mass[name] = mass.get(name, 0.0) + weight * sure * share
            for node in {node for label in named for node in self._path(label)}:
                nodes[node] = nodes.get(node, 0.0) + weight * sure
        ranked = sorted(
            mass, key=lambda name: (-round(mass[name], 9), -self._frequency.get(name, 0.0), self._order[name])
        )
        found = [name for name in ranked if mass[name] > self._threshold + _TIED]
        tie = any(abs(value - self._threshold) <= _TIED for value in mass.values())
        if torn := self._torn(nodes, ranked, found):
            found, tie = found + torn, True
        if not found and ranked and mass[ranked[0]] > nothing + _TIED:
            found, tie = [ranked[0]], tie or (len(ranked) > 1 and mass[ranked[1]] >= mass[ranked[0]] - _TIED)
        elif not found and ranked:
            tie = tie or abs(mass[ranked[0]] - nothing) <= _TIED
        agreement = nothing
        if found:
            agreement = sum(value if name in found else 1 - value for name, value in mass.items()) / len(mass)
        marginals = {name: mass[name] for name in ranked}
        return SeveralMerged(sorted(found, key=self._order.__getitem__), marginals, agreement, tie)

    def _given(self, named: Sequence[str]) -> dict[str, float]:
        """What one voter gives each label; of a label and its branch, or two branches, the greater share."""
        given: dict[str, float] = {}
        for label in named:
            for name, share in self._shares(label).items():
                given[name] = max(given.get(name, 0.0), share)
        return given

    def _torn(self, nodes: Mapping[str, float], ranked: Sequence[str], found: Sequence[str]) -> list[str]:
        """The most probable label of each branch that voters agree on without agreeing on a label of it.

        The innermost branch first: a label taken for it is one of the branches around it too.
        """
        taken: list[str] = []
        agreed = [node for node, weight in nodes.items() if weight > self._threshold + _TIED]
        for node in sorted(agreed, key=lambda name: (-name.count(">"), name)):
            below = [name for name in ranked if node in self._path(name)]
            if below and not set(below) & {*found, *taken}:
                taken.append(below[0])
        return taken

    def _path(self, label: str) -> list[str]:
        """The branches that a label is in, itself the last; none where the set is no tree."""
        if self._tree is None:
            return []
        if label not in self._paths:
            self._paths[label] = path_of(label)
        return self._paths[label]

    def _shares(self, label: str) -> dict[str, float]:
        if self._tree is None or label not in self._tree.below:
            return {label: 1.0}
        return {self._labels[place]: share for place, share in self._tree.shares(label).items()}
