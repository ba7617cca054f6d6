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


def vote_several(
    votes: Sequence[tuple[float, float, Sequence[str]]],
    *,
    labels: Sequence[str],
    tree: CategoryTree | None = None,
    frequency: Mapping[str, float] | None = None,
    threshold: float = THRESHOLD,
) -> SeveralMerged:
    """Merges the votes of one row.

    Args:
        votes: Weight, confidence and labels of each voter; weights sum to one.
        labels: The set, in order.
        tree: Of the set, where it is one.
        frequency: How frequent labels are over all rows, by which equals are told apart.
        threshold: A label is in the answer with more than this.
    """
    order = {label: place for place, label in enumerate(labels)}
    mass: dict[str, float] = {}
    nodes: dict[str, float] = {}
    nothing = 0.0
    for weight, sure, named in votes:
        nothing += 0.0 if named else weight * sure
        given: dict[str, float] = {}
        for label in named:
            for name, share in _shares(label, labels, tree).items():
                given[name] = max(given.get(name, 0.0), share)
        for name, share in given.items():
            mass[name] = mass.get(name, 0.0) + weight * sure * share
        for node in {node for label in named for node in path_of(label)[: None if tree else 0]}:
            nodes[node] = nodes.get(node, 0.0) + weight * sure
    ranked = sorted(mass, key=lambda name: (-round(mass[name], 9), -(frequency or {}).get(name, 0.0), order[name]))
    marginals = {name: mass[name] for name in ranked}
    found = [name for name in ranked if mass[name] > threshold + _TIED]
    tie = any(abs(value - threshold) <= _TIED for value in mass.values())
    for node in sorted(nodes, key=lambda name: (-name.count(">"), name)):  # the innermost branch that is agreed on
        below = [name for name in ranked if node in path_of(name)]
        if nodes[node] > threshold + _TIED and below and not set(below) & set(found):
            found.append(below[0])
            tie = True
    if not found and ranked and mass[ranked[0]] > nothing + _TIED:
        found, tie = [ranked[0]], tie or (len(ranked) > 1 and mass[ranked[1]] >= mass[ranked[0]] - _TIED)
    elif not found and ranked:
        tie = tie or abs(mass[ranked[0]] - nothing) <= _TIED
    agreement = nothing
    if found:
        agreement = sum(value if name in found else 1 - value for name, value in mass.items()) / len(mass)
    return SeveralMerged(sorted(found, key=order.__getitem__), marginals, agreement, tie)


def _shares(label: str, labels: Sequence[str], tree: CategoryTree | None) -> dict[str, float]:
    if tree is None or label not in tree.below:
        return {label: 1.0}
    return {labels[place]: share for place, share in tree.shares(label).items()}
