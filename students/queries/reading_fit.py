r"""Fits how much each number that is known of a reading counts, before the network learns what they do not tell.

A conditional logit (McFadden 1974, "Conditional logit analysis of qualitative choice behavior") of the reading that was
meant among those of its query, at soft targets:

.. math:: \min_w \; -\frac{1}{N} \sum_i \sum_k t_{ik} \log \frac{e^{w \cdot n_{ik}}}{\sum_j e^{w \cdot n_{ij}}}
    + \frac{\lambda}{2} \lVert w - w_0 \rVert^2

It is convex, and found to the last digit in a second, where the steps that suit a pretrained encoder would move weights
as large as these by a few hundredths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.students.network import Example
from distill.students.queries.readings import NUMBERS

if TYPE_CHECKING:
    from torch import nn

RIDGE = 1e-4
"""λ."""
_MOST_STEPS = 200
_NONE = -1e4


def fit_choosers(model: nn.Module, examples: Sequence[Example]) -> None:
    """Sets the plain weights of every :class:`~distill.students.queries.heads.ReadingChooser` of a model.

    Args:
        model: A :class:`~distill.students.queries.heads.QueryModel`.
        examples: With targets; those of which the part is not known are left out, and without any the weights stay.
    """
    import torch

    from distill.students.queries.heads import ReadingChooser

    heads: Any = model.heads
    for name, head in heads.items():
        if not isinstance(head, ReadingChooser):
            continue
        known = [example for example in examples if len(example[f"{name}:ids"])]
        if not known:
            continue
        numbers = np.stack([example["reading_numbers"].reshape(-1, len(NUMBERS)) for example in known])
        targets = np.zeros(numbers.shape[:2])
        for line, example in zip(targets, known, strict=True):
            np.add.at(line, example[f"{name}:ids"], example[f"{name}:shares"])
        first = head.plain.weight.detach().double().numpy()[0]
        with torch.no_grad():
            head.plain.weight.copy_(torch.from_numpy(fitted_weights(numbers, targets, first))[None])


def fitted_weights(numbers: np.ndarray, targets: np.ndarray, first: np.ndarray, *, ridge: float = RIDGE) -> np.ndarray:
    """``[F]``: see the module.

    Args:
        numbers: ``[N, K, F]``; a reading whose first number is 0 is not there.
        targets: ``[N, K]``, each line summing to one.
        first: ``[F]``, where the search begins and what the ridge draws to.
        ridge: λ.
    """
    import torch

    given, wanted, start = (
        torch.from_numpy(np.asarray(array, dtype=np.float64)) for array in (numbers, targets, first)
    )
    weights = start.clone().requires_grad_()
    search = torch.optim.LBFGS([weights], max_iter=_MOST_STEPS, line_search_fn="strong_wolfe")
    absent = given[..., 0] == 0

    def cost() -> torch.Tensor:
        search.zero_grad()
        scores = (given @ weights).masked_fill(absent, _NONE)
        found = -(wanted * scores.log_softmax(dim=1)).sum(dim=1).mean()
        found = found + ridge / 2 * (weights - start).square().sum()
        found.backward()
        return found

    # Training may be under way in a context without gradients.
    with torch.enable_grad():
        search.step(cost)
    return np.asarray(weights.detach().numpy())
