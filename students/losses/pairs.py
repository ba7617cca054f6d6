"""Losses between the rows of a query. Conventions are those of :mod:`distill.students.losses.distributions`.

They compare **grades**: the expected grade of a distribution, where the worst label counts 0 and the best 1. Rows of
weight 0 (which fill a batch up) are compared with nothing; a row that is alone in its batch costs 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def margin_mse_rows(grade: Tensor, wanted: Tensor, group: Tensor, weight: Tensor) -> Tensor:
    """``sum_j w_j ((s_i - s_j) - (g_i - g_j))² / sum_j w_j`` over the other rows j of row i's query.

    MarginMSE (Hofstätter et al. 2020, equation 3) over all pairs of a query in the batch, on grades in place of raw
    scores. Insensitive to how high a query's grades are over all, which teachers and students see differently.

    Args:
        grade: ``[B]``, the student's expected grades ``s``.
        wanted: ``[B]``, the targets' expected grades ``g``.
        group: ``[B]`` int, the query.
        weight: ``[B]``.

    Returns:
        ``[B]``.
    """
    error = grade.float() - wanted.float()
    squared = (error.unsqueeze(1) - error.unsqueeze(0)).square()
    pull = _together(group, weight).fill_diagonal_(0.0)
    return (pull * squared).sum(dim=1) / pull.sum(dim=1).clamp(min=1e-12)


def listwise_rows(grade: Tensor, wanted: Tensor, group: Tensor, weight: Tensor, *, scale: float = 0.25) -> Tensor:
    """``KL(softmax_j(g_j / scale) || softmax_j(s_j / scale))`` over the rows j of row i's query in the batch.

    ListNet's top-one loss (Cao et al. 2007, section 4) less the constant that makes a perfect order cost 0. The query's
    loss stands at each of its rows, so that the batch's mean is the mean over queries weighted by their rows. Within a
    query a row of weight 2 counts as two.

    Args:
        grade: As for :func:`margin_mse_rows`.
        wanted: As for :func:`margin_mse_rows`.
        group: As for :func:`margin_mse_rows`.
        weight: As for :func:`margin_mse_rows`.
        scale: Grade difference that makes a row e times as relevant.
    """
    weighted = _together(group, weight).clamp(min=1e-30).log()
    log_s = (grade.float() / scale + weighted).log_softmax(dim=1)
    log_g = (wanted.float() / scale + weighted).log_softmax(dim=1)
    return (log_g.exp() * (log_g - log_s)).sum(dim=1)


def _together(group: Tensor, weight: Tensor) -> Tensor:
    """``[B, B]``: the weight of row j where it shares row i's query, else 0."""
    return (group.unsqueeze(1) == group.unsqueeze(0)).float() * weight.float().unsqueeze(0)
