r"""A distribution over labels that are paths: a softmax among the children of every branch.

The probability of a label is the product along its path,

.. math:: P(A > B > C) = P(A) \, P(B \mid A) \, P(C \mid A > B),

so that a label borrows from what is known of its branch, and a mistake within a branch costs less than one across
(Redmon & Farhadi 2017, "YOLO9000", section 4, https://arxiv.org/abs/1612.08242). Labels that are no paths are one
softmax. A label that lies above others has a child of its own that stands for itself alone; where a row may have no
label at all, that is an option beside the first level, under the empty text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from distill.labeling.category_tree import SEPARATOR, path_of, tree_of_labels

if TYPE_CHECKING:
    from torch import Tensor

NOTHING = ""
"""The option that no label is right."""
_ITSELF = "\0"
_LOW = -1e4


class PathSoftmax:
    """Turns scores of nodes into log probabilities of options.

    Args:
        labels: In the task's order.
        nothing: Whether no label is an option, too.

    Attributes:
        options: The labels, and :data:`NOTHING` last where it is one.
        nodes: What has a score, in the order of the scores.
    """

    def __init__(self, labels: Sequence[str], *, nothing: bool) -> None:
        self.options = (*labels, NOTHING) if nothing else tuple(labels)
        tree = tree_of_labels(tuple(labels))
        branches = set(tree.children)
        paths = {label: [*path_of(label), *([label + _ITSELF] if label in branches else [])] for label in labels}
        if nothing:
            paths[NOTHING] = [NOTHING + _ITSELF]
        self.nodes = tuple(dict.fromkeys(node for path in paths.values() for node in path))
        self._paths = [paths[option] for option in self.options]

    @property
    def names(self) -> tuple[str, ...]:
        """What each node is called, for a head that begins from the words: the last part of its path."""
        return tuple(node.rstrip(_ITSELF).rsplit(SEPARATOR, 1)[-1] for node in self.nodes)

    def log_probs(self, scores: Tensor) -> Tensor:
        """``[B, options]`` from scores ``[B, nodes]``, in float32."""
        import torch

        children, at = self._indices
        scores = scores.float()
        padded = torch.cat([scores, scores.new_full((len(scores), 1), _LOW)], dim=1)
        siblings = padded[:, torch.as_tensor(children, device=scores.device)].log_softmax(dim=-1)
        flat = torch.cat([siblings.flatten(1), scores.new_zeros((len(scores), 1))], dim=1)
        return flat[:, torch.as_tensor(at, device=scores.device)].sum(dim=-1)

    @cached_property
    def _indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes of every group of siblings ``[groups, most]``, and the places of every option's path in those."""
        place = {node: number for number, node in enumerate(self.nodes)}
        groups: dict[str, list[str]] = {}
        for path in self._paths:
            for parent, node in zip(["", *path], path, strict=False):
                own = groups.setdefault(parent, [])
                if node not in own:
                    own.append(node)
        most = max(len(own) for own in groups.values())
        children = np.full((len(groups), most), len(self.nodes))
        where: dict[str, int] = {}
        for number, own in enumerate(groups.values()):
            for rank, node in enumerate(own):
                children[number, rank] = place[node]
                where[node] = number * most + rank
        deepest = max(len(path) for path in self._paths)
        at = np.full((len(self._paths), deepest), len(groups) * most)
        for number, path in enumerate(self._paths):
            at[number, : len(path)] = [where[node] for node in path]
        return children, at
