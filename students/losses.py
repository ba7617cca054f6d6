"""Losses between a student's logits and a distribution over the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from distill.students.config import LossName


def soft_cross_entropy(logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy to a distribution (Hinton et al. 2015, at temperature 1).

    ``sum_i w_i * -sum_k t_ik * log softmax(z_i)_k / B``

    * Temperature: 1, on both sides, so there is no T² factor.
    * Normalisation: by the number of rows ``B``, not by the sum of the weights. A row then pulls as hard whichever
      rows share its batch, and batches cut in equal parts over processes have the mean of the parts' losses.
      Weights are meant to have mean 1 over the training set.
    * Padding: none is expected; a row of weight 0 adds nothing and still counts in ``B``.
    * It differs from the Kullback-Leibler divergence by the target's entropy, a constant: the gradients are equal.

    Args:
        logits: ``[B, K]``, any float type; the sum is computed in float32.
        target: ``[B, K]``, each row summing to one.
        weight: ``[B]``; ones where it is None.

    Returns:
        A scalar.
    """
    per_row = -(target.float() * logits.float().log_softmax(dim=-1)).sum(dim=-1)
    return per_row.mean() if weight is None else (weight.float() * per_row).sum() / len(per_row)


def hard_cross_entropy(logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy to the target's most probable label; use :func:`soft_cross_entropy` to learn the distribution.

    Of labels that are equally probable the first is taken. Temperature, normalisation, padding, arguments and result
    are those of :func:`soft_cross_entropy`, to which it is equal on one-hot targets.
    """
    from torch.nn.functional import one_hot

    top = one_hot(target.argmax(dim=-1), num_classes=target.shape[-1])
    return soft_cross_entropy(logits, top.to(logits.device), weight=weight)


def loss_of(name: LossName, logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """The loss that a recipe names ``soft_ce`` or ``hard_ce``."""
    return (soft_cross_entropy if name == "soft_ce" else hard_cross_entropy)(logits, target, weight=weight)
