"""Losses that expect some labels to be wrong. Conventions are those of :mod:`distill.students.losses.distributions`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.students.losses.distributions import soft_cross_entropy_rows

if TYPE_CHECKING:
    from torch import Tensor


def generalised_cross_entropy_rows(logits: Tensor, target: Tensor, *, q: float = 0.7) -> Tensor:
    """``sum_k t_k (1 - p_k^q) / q`` (Zhang and Sabuncu 2018, equation 6, averaged over a soft target).

    Cross-entropy for q near 0; ``1 - p_k``, which forgives a wrong label most, for q = 1. Its gradient is that of
    cross-entropy times ``p_k^q``: a label that the student disbelieves pulls little.
    """
    log_p = logits.float().log_softmax(dim=-1)
    return (target.float() * -(log_p * q).expm1() / q).sum(dim=-1)


def symmetric_cross_entropy_rows(
    logits: Tensor, target: Tensor, *, alpha: float = 1.0, beta: float = 1.0, log_zero: float = -4.0
) -> Tensor:
    """``alpha * -sum_k t_k log p_k + beta * -sum_k p_k log t_k`` (Wang et al. 2019, equation 6).

    ``log t_k`` is no less than ``log_zero`` (A in the paper, for log 0).
    """
    reverse = -(logits.float().softmax(dim=-1) * target.float().log().clamp(min=log_zero)).sum(dim=-1)
    return alpha * soft_cross_entropy_rows(logits, target) + beta * reverse


def early_learning_rows(logits: Tensor, target: Tensor, remembered: Tensor, *, strength: float = 3.0) -> Tensor:
    """``-sum_k t_k log p_k + lambda log(1 - sum_k p_k m_k)`` (Liu et al. 2020, equation 6).

    Args:
        logits: ``[B, K]``.
        target: ``[B, K]``.
        remembered: ``[B, K]``, the running average ``m`` of the row's predictions, this one included; no gradient.
        strength: lambda.
    """
    agreement = (logits.float().softmax(dim=-1) * remembered).sum(dim=-1)
    return soft_cross_entropy_rows(logits, target) + strength * (1.0 - agreement).clamp(min=1e-4).log()


def corrected_cross_entropy_rows(logits: Tensor, target: Tensor, confusion: Tensor) -> Tensor:
    """``-sum_j t_j log sum_i p_i C_ij`` (Patrini et al. 2017, theorem 2: forward correction).

    The student's ``p`` becomes what is true, and ``p C`` what the source says of it.

    Args:
        logits: ``[B, K]``.
        target: ``[B, K]``, what the source said.
        confusion: ``[B, K, K]``, for each row that of its source: ``C_ij = P(source says j | i is true)``.
    """
    said = (logits.float().softmax(dim=-1).unsqueeze(-2) @ confusion).squeeze(-2)
    return -(target.float() * said.clamp(min=1e-12).log()).sum(dim=-1)
