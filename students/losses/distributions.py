"""Losses between a student's logits and a distribution over the labels.

Those that end in ``_rows`` give a number a row, ``[B]``; :func:`mean_over_rows` makes a batch's loss of them. For all:

* Normalisation: by the number of rows ``B``, not by the sum of the weights. A row then pulls as hard whichever rows
  share its batch, and batches cut in equal parts over processes have the mean of the parts' losses. Weights are meant
  to have mean 1 over the training set.
* Padding: none is expected; a row of weight 0 adds nothing and still counts in ``B``.
* Temperature ``T``: divides the logits and softens the target to ``t_k^(1/T) / sum_j t_j^(1/T)``, and the loss is
  multiplied by ``T²``, so that gradients keep their size (Hinton et al. 2015, section 2.1). 1 changes nothing.
* Types: logits ``[B, K]`` of any float type, target ``[B, K]`` summing to one by row; all is computed in float32.

Below, ``p`` is the student's distribution and ``t`` the target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

RowLoss = Callable[["Tensor", "Tensor"], "Tensor"]
"""Logits ``[B, K]`` and target ``[B, K]`` in, losses ``[B]`` out."""

_LEAST = 1e-12
"""Below it a probability counts as this within a logarithm, so that no gradient is infinite."""


def mean_over_rows(losses: Tensor, weight: Tensor | None = None) -> Tensor:
    """``sum_i w_i * loss_i / B``.

    Args:
        losses: ``[B]``.
        weight: ``[B]``; ones where it is None.
    """
    return losses.mean() if weight is None else (weight.float() * losses).sum() / len(losses)


def soft_cross_entropy(logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy to a distribution (Hinton et al. 2015, at temperature 1): a scalar.

    ``sum_i w_i * -sum_k t_ik * log softmax(z_i)_k / B``

    It differs from the Kullback-Leibler divergence by the target's entropy, a constant: the gradients are equal.

    Args:
        logits: ``[B, K]``, any float type; the sum is computed in float32.
        target: ``[B, K]``, each row summing to one.
        weight: ``[B]``; ones where it is None.
    """
    return mean_over_rows(soft_cross_entropy_rows(logits, target), weight)


def soft_cross_entropy_rows(logits: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``-T² sum_k t_k log p_k``."""
    log_p, t = _softened(logits, target, temperature)
    return -(t * log_p).sum(dim=-1) * temperature**2


def hard_cross_entropy_rows(logits: Tensor, target: Tensor) -> Tensor:
    """``-log p_k`` for the target's top label, the first of equals; as the soft one on one-hot targets."""
    top = target.argmax(dim=-1, keepdim=True)
    return -logits.float().log_softmax(dim=-1).gather(-1, top.to(logits.device)).squeeze(-1)


def forward_kl_rows(logits: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``T² sum_k t_k log(t_k / p_k)``: cross-entropy less the target's entropy, so that 0 is reached."""
    log_p, t = _softened(logits, target, temperature)
    return (t.xlogy(t) - t * log_p).sum(dim=-1) * temperature**2


def reverse_kl_rows(logits: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``T² sum_k p_k log(p_k / t_k)``, with ``t_k`` no less than 1e-4 (MiniLLM, Gu et al. 2023, for single labels).

    A one-hot target would make it infinite everywhere else; the floor makes a stray ``p_k`` cost 9.2 ``p_k``.
    """
    log_p, t = _softened(logits, target, temperature)
    return (log_p.exp() * (log_p - t.clamp(min=1e-4).log())).sum(dim=-1) * temperature**2


def jsd_rows(logits: Tensor, target: Tensor, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """``T² (beta KL(t || m) + (1 - beta) KL(p || m))`` with ``m = beta t + (1 - beta) p``.

    Generalised Jensen-Shannon divergence (Agarwal et al. 2024, GKD, equation 1). Bounded by ``T² log 2``, so that a
    wrong label pulls less than in cross-entropy (Englesson and Azizpour 2021). Divided by ``beta`` it tends to forward
    KL for small ``beta``; divided by ``1 - beta`` to reverse KL for ``beta`` near 1.
    """
    log_p, t = _softened(logits, target, temperature)
    p = log_p.exp()
    log_m = (beta * t + (1.0 - beta) * p).clamp(min=_LEAST).log()
    of_teacher = (t.xlogy(t) - t * log_m).sum(dim=-1)
    of_student = (p * (log_p - log_m)).sum(dim=-1)
    return (beta * of_teacher + (1.0 - beta) * of_student) * temperature**2


def rps_rows(logits: Tensor, target: Tensor) -> Tensor:
    """``sum_{k<K} (P_k - T_k)² / (K - 1)`` over cumulated shares: the ranked probability score (Epstein 1969).

    A proper score of ordered labels: a near miss costs less than a far one, and the best answer is the distribution.
    """
    return emd_rows(logits, target, power=2) / (logits.shape[-1] - 1)


def emd_rows(logits: Tensor, target: Tensor, *, power: int = 2) -> Tensor:
    """``sum_k |P_k - T_k|^r`` over cumulated shares (Hou et al. 2016, equations 5 and 6, without the root).

    With ``r = 1`` it is the earth mover's distance between ordered labels one step apart, best answered by the median
    label; with ``r = 2`` it is ``(K - 1)`` times :func:`rps_rows`.
    """
    moved = (logits.float().softmax(dim=-1) - target.float()).cumsum(dim=-1)[..., :-1]
    return (moved.abs() if power == 1 else moved.square()).sum(dim=-1)


def _softened(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log of the student's distribution and the target, both at the temperature."""
    log_p = (logits.float() / temperature).log_softmax(dim=-1)
    t = target.float()
    if temperature == 1.0:
        return log_p, t
    t = t.pow(1.0 / temperature)
    return log_p, t / t.sum(dim=-1, keepdim=True)
