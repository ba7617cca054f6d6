"""What a student loses by reading less from a row than its teacher's trace says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def clause_cross_entropy(scores: Tensor, cited: Tensor, *, weight: Tensor) -> Tensor:
    """Binary cross-entropy of every clause: was it cited?

    ``sum_i w_i * mean_c -(y_ic log s(z_ic) + (1 - y_ic) log(1 - s(z_ic))) / B``, with ``s`` the logistic function.

    * Temperature: 1.
    * Normalisation: by the clauses, then by the number of rows ``B``, not by the sum of the weights, as
      :func:`distill.students.losses.distributions.soft_cross_entropy` is: parts of a batch have the mean of the parts'
      losses.
    * Padding: a row without citations has weight 0, adds nothing, and still counts in ``B``.

    Args:
        scores: ``[B, C]``, any float type; computed in float32.
        cited: ``[B, C]`` of 0 and 1.
        weight: ``[B]``; 0 for a row that is not known.

    Returns:
        A scalar.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    per_row = binary_cross_entropy_with_logits(scores.float(), cited.float(), reduction="none").mean(dim=-1)
    return (weight.float() * per_row).sum() / len(per_row)


def contrast(states: Tensor, others: Tensor, *, weight: Tensor, temperature: float) -> Tensor:
    """Each state must find its own among the others of the batch (InfoNCE; van den Oord et al. 2018).

    ``sum_i w_i * -log(exp(cos(a_i, b_i) / T) / sum_j [w_j > 0] exp(cos(a_i, b_j) / T)) / B``

    * Temperature: ``T`` divides the cosines; no T² factor.
    * Normalisation: by the number of rows ``B``.
    * Padding: a row of weight 0 is neither asked nor among the others.
    * The others are those of this process's share of the batch: two processes of eight rows contrast eight with eight,
      one of sixteen sixteen with sixteen. This is the one loss that more processes change.

    Args:
        states: ``[B, D]``, with a gradient.
        others: ``[B, D]``; what ``states[i]`` is drawn to is ``others[i]``.
        weight: ``[B]``.
        temperature: ``T``.

    Returns:
        A scalar; 0 where no row has a weight.
    """
    import torch
    from torch.nn.functional import normalize

    with torch.autocast(states.device.type, enabled=False):
        cosines = normalize(states.float(), dim=-1) @ normalize(others.float(), dim=-1).T / temperature
    # Not minus infinity: a batch without any known row would have no finite score, and 0 times that is no number.
    cosines = cosines.masked_fill(weight <= 0, -1e4)
    return (weight.float() * -cosines.log_softmax(dim=-1).diagonal()).sum() / len(cosines)


def unlikeness(states: Tensor, others: Tensor, *, weight: Tensor) -> Tensor:
    """How far each state points away from its own: ``sum_i w_i * (1 - cos(a_i, b_i)) / B``.

    Between 0 and 2 a row. Unlike :func:`contrast` it does not push the rows of a label apart.

    * Temperature: none.
    * Normalisation: by the number of rows ``B``; a row of weight 0 adds nothing.

    Args:
        states: ``[B, D]``, with a gradient.
        others: ``[B, D]``.
        weight: ``[B]``.

    Returns:
        A scalar.
    """
    from torch.nn.functional import cosine_similarity

    per_row = 1.0 - cosine_similarity(states.float(), others.float(), dim=-1)
    return (weight.float() * per_row).sum() / len(per_row)


def agreement(logits: Tensor, told: Tensor, *, weight: Tensor) -> Tensor:
    """Divergence of what a student says of a row from what it says when told the trace as well.

    ``sum_i w_i * KL(softmax(told_i) || softmax(logits_i)) / B``: generalised distillation (Lopez-Paz et al. 2016,
    https://arxiv.org/abs/1511.03643), the trace being what is known in training only. ``told`` gets no gradient.

    * Temperature: 1 on both sides, so no T² factor.
    * Normalisation: by the number of rows ``B``; a row of weight 0 adds nothing.

    Args:
        logits: ``[B, K]`` of the rows.
        told: ``[B, K]`` of the rows with their traces.
        weight: ``[B]``.

    Returns:
        A scalar.
    """
    from torch.nn.functional import kl_div

    target = told.detach().float().log_softmax(dim=-1)
    per_row = kl_div(logits.float().log_softmax(dim=-1), target, reduction="none", log_target=True).sum(dim=-1)
    return (weight.float() * per_row).sum() / len(per_row)
