r"""A distribution over labels that are paths, and what a mistake costs at every level of the tree.

Labels are one softmax; the probability of a branch is the sum of those of the labels at and below it, as everywhere in
:mod:`distill.labeling.category_tree`. What is learned is the mean over the levels of a label's path,

.. math:: c(A > B > C) = - \tfrac{1}{3} (\log P(A) + \log P(A > B) + \log P(A > B > C)),

so that a label in the right branch costs less than one in another. (A softmax at every branch instead, with the product
along the path, begins from the branches' names where a query is nearer to the labels' own: docs/log.md.) Where a row
may have no label at all, that is one option more, of one level.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from distill.labeling.category_tree import SEPARATOR, path_of

if TYPE_CHECKING:
    from torch import Tensor

NOTHING = ""
"""The option that no label is right."""
_LEAST = 1e-12


class TreeSoftmax:
    """Turns scores of options into log probabilities, and into those of their paths.

    Args:
        labels: In the task's order.
        nothing: Whether no label is an option, too.

    Attributes:
        options: The labels, and :data:`NOTHING` last where it is one; scores are in their order.
    """

    def __init__(self, labels: Sequence[str], *, nothing: bool) -> None:
        self.options = (*labels, NOTHING) if nothing else tuple(labels)

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """What each option is called, for a head that begins from the words: its own name, and the whole path."""
        return tuple((option.rsplit(SEPARATOR, 1)[-1], option.replace(SEPARATOR, ", ")) for option in self.options)

    def log_probs(self, scores: Tensor) -> Tensor:
        """``[B, options]`` from scores ``[B, options]``, in float32."""
        return scores.float().log_softmax(dim=-1)

    def path_log_probs(self, scores: Tensor) -> Tensor:
        """``[B, options]``: for each option the mean over its path of ``log P``, of which the module's cost is the
        negative; in float32."""
        import torch

        own = self.log_probs(scores)
        within, depth = self._within
        probs = own.exp()
        # Branch 0 is none: what is shorter than the deepest path is filled up with it.
        found = own.new_zeros((len(own), int(within.max(initial=0)) + 1))
        members = torch.as_tensor(within, device=own.device)
        for level in range(within.shape[1]):
            found = found.index_add(1, members[:, level], probs)
        places = members[:, 1:]
        logs = found.clamp(min=_LEAST).log()
        logs = torch.cat([logs.new_zeros((len(logs), 1)), logs[:, 1:]], dim=1)
        total: Tensor = own + logs[:, places].sum(dim=-1)
        return total / torch.as_tensor(depth, device=own.device)

    @cached_property
    def _within(self) -> tuple[np.ndarray, np.ndarray]:
        """Branches that every option is in, ``[options, 1 + levels]``, and the length of its path ``[options]``.

        The first is the branch that the option itself is, where others lie below it; then those above it. 0 is none.
        """
        paths = [path_of(option)[:-1] if option != NOTHING else [] for option in self.options]
        number = {node: place for place, node in enumerate(dict.fromkeys(node for path in paths for node in path), 1)}
        levels = max(len(path) for path in paths)
        within = np.zeros((len(paths), 1 + levels), dtype=np.int64)
        for line, (option, path) in enumerate(zip(self.options, paths, strict=True)):
            within[line, 0] = number.get(option, 0)
            within[line, 1 : 1 + len(path)] = [number[node] for node in path]
        return within, np.array([len(path) + 1 for path in paths], dtype=np.float32)
