r"""Votes for the nodes of a tree: what one for a branch gives to its labels, and which label a row gets.

A vote for a branch, which is no label itself, is shared evenly among the labels below it: it supports the branch and
all above it wholly, each label under it in part. Probabilities add up along the path,

.. math:: P(node) = \sum_{label \,\text{at or below}\, node} P(label),

and the label is found from the top: at each node the most probable child is taken. So two votes for different shelves
of one aisle win over one vote elsewhere that is a little more probable than each of them.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from distill.labeling.category_tree import CategoryTree

_TIED = 1e-9


def spread_branches(votes: pl.DataFrame, tree: CategoryTree) -> pl.DataFrame:
    """Gives votes for branches a distribution, and a label of the branch to stand for it.

    Where no vote of the table states a distribution, bare labels are taken for certain, as without branches.
    """
    branches = [node for node in votes["label"].drop_nulls().unique() if node in tree.below and node not in tree.labels]
    if not branches:
        return votes
    width = len(tree.labels)
    stated = "probs" in votes.columns and votes["probs"].null_count() < votes.height
    probs = votes["probs"].to_list() if stated else [None] * votes.height
    labels = votes["label"].to_list()
    for place, label in enumerate(labels):
        if label is None or (label not in branches and stated):
            continue
        line = [0.0] * width
        for at, share in tree.shares(label).items():
            line[at] = share
        probs[place] = line
        if label in branches:
            labels[place] = tree.labels[tree.below[label][0]]
    return votes.with_columns(
        label=pl.Series(labels, dtype=pl.String), probs=pl.Series(probs, dtype=pl.List(pl.Float64))
    )


def label_from_top(probs: np.ndarray, tree: CategoryTree) -> tuple[np.ndarray, np.ndarray]:
    """The label of each row by the most probable child of each node, and whether there was a tie on the way.

    Of children that are equally probable the one that is more frequent over all rows is taken, then the first.

    Args:
        probs: Distributions over ``tree.labels``, shape (rows, labels).
        tree: The tree.
    """
    place = {label: at for at, label in enumerate(tree.labels)}
    mass = {node: probs[:, list(below)].sum(axis=1) for node, below in tree.below.items()}
    found = np.zeros(len(probs), dtype=np.int64)
    tie = np.zeros(len(probs), dtype=bool)
    open_rows: list[tuple[str, np.ndarray]] = [("", np.arange(len(probs)))]
    while open_rows:
        node, rows = open_rows.pop()
        children = tree.children.get(node, ())
        columns = [mass[child] for child in children]
        if node in place:  # a label that others stand below: it may be meant itself
            columns.append(probs[:, place[node]])
        among = np.stack(columns, axis=1)
        frequency = np.round(among.mean(axis=0), 9)
        best = among[rows].max(axis=1, keepdims=True)
        tied = among[rows] >= best - _TIED
        taken = np.where(tied, frequency, -1.0).argmax(axis=1)
        tie[rows] |= tied.sum(axis=1) > 1
        for at in np.unique(taken):
            there = rows[taken == at]
            child = children[at] if at < len(children) else node
            if at < len(children) and child in tree.children:
                open_rows.append((child, there))
            else:
                found[there] = place[child]
    return found, tie
