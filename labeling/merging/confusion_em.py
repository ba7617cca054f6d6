r"""Expectation–maximisation over the confusions of voters: the one engine behind Dawid–Skene, MACE and the label model.

Row :math:`i` has a hidden label :math:`k` with frequency :math:`\pi_k`; voter :math:`j` gives label :math:`l` with
probability :math:`\theta_{jkl}`, independently of the other voters given :math:`k`:

.. math::
    E:\quad q_i(k) \propto \pi_k \prod_{j \in i} \theta_{jk\,l_{ij}}^{\,w_{ij}} \qquad
    M:\quad C_{jkl} = \sum_i w_{ij} [l_{ij} = l] \, q_i(k), \quad \theta = f(C), \quad
    \pi_k = \Big(\sum_i q_i(k) + \alpha\Big) \Big/ \Big(n + \alpha K\Big)

The methods differ only in :math:`f`, how confusions are read from the expected counts :math:`C`. The start is the share
of each row's votes. Both steps are products of one sparse matrix (rows × voter and label); rows with the very same
votes have the same posterior, so that each kind of row is worked on once, with its number as weight.

Dawid and Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm", Applied Statistics
1979.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from distill.labeling.merging.panel import Panel

CLASS_COUNT = 1.0
"""Rows of each label that are added to the counts behind the label frequencies, so that no label dies out."""
_TINY = 1e-12
_HOLDS = 30

ReadConfusions = Callable[[np.ndarray], np.ndarray]
"""Confusions (voters, labels, labels) of true and given label, from expected counts of the same shape."""


@dataclass(frozen=True)
class VoteMatrix:
    """The votes of a panel as a sparse matrix, each kind of row once.

    Attributes:
        votes: Weight of each vote, sparse, shape (kinds, voters × labels).
        transposed: The same, by vote, so that both products run over contiguous memory.
        kind: Kind of each row, shape (rows,).
        weight: Rows of each kind; none for rows without a vote, shape (kinds,).
        voters: How many.
        labels: How many.
    """

    votes: Any
    transposed: Any
    kind: np.ndarray
    weight: np.ndarray
    voters: int
    labels: int

    @classmethod
    def of(cls, panel: Panel) -> VoteMatrix:
        """Reads the hard judgments of a panel: a teacher that was sampled often gives each label its share."""
        from scipy import sparse  # type: ignore[import-untyped]

        judged, labels = panel.hard_judgments, len(panel.labels)
        at, label = np.nonzero(judged.probs)
        value = judged.probs[at, label].astype(np.float64)
        if judged.weight is not None:
            value *= judged.weight[at]
        row, column = judged.row[at], judged.voter[at] * labels + label
        kind, first = _kinds(row, column, value, rows=len(panel.row_ids))
        kept = first[row]
        shape = (int(kind.max()) + 1 if len(kind) else 0, len(panel.teachers) * labels)
        votes = sparse.csr_matrix((value[kept], (kind[row[kept]], column[kept])), shape=shape)
        occurs = np.bincount(kind, minlength=shape[0]).astype(np.float64)
        occurs[np.diff(votes.indptr) == 0] = 0.0
        return cls(votes, votes.T.tocsr(), kind, occurs, len(panel.teachers), labels)

    def shares(self) -> np.ndarray:
        """Shares of the votes by label; even where there is no vote, shape (kinds, labels)."""
        total = self.votes @ np.tile(np.eye(self.labels), (self.voters, 1))
        per_kind = total.sum(axis=1, keepdims=True)
        return np.where(per_kind > 0, total / np.maximum(per_kind, _TINY), 1.0 / self.labels)

    def counts(self, posterior: np.ndarray) -> np.ndarray:
        """Expected counts of true and given label, shape (voters, labels, labels)."""
        found = self.transposed @ (posterior * self.weight[:, None])
        return np.ascontiguousarray(found.reshape(self.voters, self.labels, self.labels).transpose(0, 2, 1))

    def evidence(self, confusions: np.ndarray) -> np.ndarray:
        """Log-likelihood of each kind's votes under each true label, shape (kinds, labels)."""
        log = np.log(np.maximum(confusions, _TINY)).transpose(0, 2, 1)
        return self.votes @ np.ascontiguousarray(log).reshape(self.voters * self.labels, self.labels)


class Fitted(NamedTuple):
    """Where EM ended.

    Attributes:
        posterior: Distribution of each row, shape (rows, labels).
        prior: Label frequencies, shape (labels,).
        confusions: Of true and given label, shape (voters, labels, labels).
        steps: EM steps taken.
        log_likelihood: Of all votes, at the last step.
    """

    posterior: np.ndarray
    prior: np.ndarray
    confusions: np.ndarray
    steps: int
    log_likelihood: float


def fit_confusions(
    matrix: VoteMatrix,
    read: ReadConfusions,
    *,
    steps: int,
    tolerance: float,
    prior: np.ndarray | None = None,
    start: np.ndarray | None = None,
    floor: np.ndarray | None = None,
) -> Fitted:
    """Runs EM until the posteriors move by less than ``tolerance`` a row on average.

    Args:
        matrix: The votes.
        read: Confusions from expected counts.
        steps: The most EM steps.
        tolerance: Mean over the rows of the summed absolute change of a posterior.
        prior: Label frequencies that are known; estimated where None.
        start: Posterior of each kind to start from; the shares of the votes where None.
        floor: Least share of the rows that each label keeps, shape (labels,); none where None.
    """
    posterior = matrix.shares() if start is None else start
    rows = max(float(matrix.weight.sum()), 1.0)
    step, likelihood = 0, -np.inf
    while True:
        confusions = read(matrix.counts(posterior))
        frequencies = prior if prior is not None else _frequencies(posterior, matrix.weight)
        if step == steps:
            break
        moved, total = normalised(np.log(frequencies) + matrix.evidence(confusions))
        if floor is not None:
            moved = _held_up(moved, matrix.weight, floor)
        likelihood = float(matrix.weight @ total)
        change = float(matrix.weight @ np.abs(moved - posterior).sum(axis=1)) / rows
        posterior, step = moved, step + 1
        if change < tolerance:
            break
    return Fitted(posterior[matrix.kind], frequencies, confusions, step, likelihood)


def normalised(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Softmax over the last axis, and the log of what it was divided by.

    Args:
        logits: Logs of unnormalised probabilities, shape (rows, labels).

    Returns:
        The softmax, shape (rows, labels), and the log-sum-exp, shape (rows,).
    """
    top = logits.max(axis=1, keepdims=True)
    found = np.exp(logits - top)
    total = found.sum(axis=1, keepdims=True)
    found /= total
    return found, (top + np.log(total))[:, 0]


def _held_up(posterior: np.ndarray, weight: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """The nearest posteriors (in relative entropy) that give no label less than its floor: a factor a label."""
    for _ in range(_HOLDS):
        share = weight @ posterior / max(float(weight.sum()), _TINY)
        if (share >= floor * (1 - 1e-3)).all():
            break
        posterior = posterior * np.maximum(floor / np.maximum(share, _TINY), 1.0)
        posterior /= posterior.sum(axis=1, keepdims=True)
    return posterior


def _frequencies(posterior: np.ndarray, weight: np.ndarray) -> np.ndarray:
    found = weight @ posterior + CLASS_COUNT
    return found / found.sum()


def _kinds(row: np.ndarray, column: np.ndarray, value: np.ndarray, *, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each row, and whether a row is the first of its kind. Rows with the same votes are of one kind.

    Votes are summed up by random 64-bit numbers, which differ for two different rows but for a chance of one in
    10^19 a pair; 10 million rows that all differ are confused with a probability of 3 in a million.
    """
    mark = np.random.default_rng(0).integers(0, 2**63, size=int(column.max(initial=0)) + 1, dtype=np.uint64)
    of_vote = mark[column] * (2 * value.view(np.uint64) + 1)
    total = np.zeros(rows, dtype=np.uint64)
    if len(row):
        starts = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
        total[row[starts]] = np.add.reduceat(of_vote, starts)
    _, first, kind = np.unique(total, return_index=True, return_inverse=True)
    is_first = np.zeros(rows, dtype=bool)
    is_first[first] = True
    return kind, is_first
