"""What each loss of a recipe needs of a row, remembers, and costs: the losses' formulas tied to their settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.losses import distributions as losses
from distill.students.losses import noise as noise_losses
from distill.students.losses import pairs as pair_losses
from distill.students.losses.config import (
    AnyLoss,
    Elr,
    Emd,
    ForwardCorrection,
    ForwardKl,
    Gce,
    HardCe,
    Jsd,
    Listwise,
    MarginMse,
    ReverseKl,
    Rps,
    Sce,
    SoftCe,
)
from distill.students.training_set import grades


class LossRule(ABC):
    """How a batch's rows are costed.

    Attributes:
        rows_together: Rows of a group that batches keep together; 1 where rows are costed one by one.
        robust: Whether it expects wrong labels, so that people's are learned by soft cross-entropy instead.
    """

    rows_together: int = 1
    robust: bool = False

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """Numbers of each row beyond target and weight."""
        return {}

    @abstractmethod
    def rows(self, logits: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """Losses ``[B]`` of a batch in training."""

    def state_dict(self) -> dict[str, Any]:
        """State to go on from."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have nothing to take up
        """Takes up what :meth:`state_dict` gave."""


class RowRule(LossRule):
    """A function of logits and target alone."""

    def __init__(self, loss: losses.RowLoss, *, robust: bool = False) -> None:
        self._loss = loss
        self.robust = robust

    def rows(self, logits: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """The function's."""
        return self._loss(logits, columns["target"])


class EarlyLearningRule(LossRule):
    """Early-learning regularisation, with a memory of every training row's predictions.

    The memory is ``[N, K]`` float32 by the row's place in the training table, moves as ``m <- beta m + (1 - beta) p``
    when a row is trained on, and is part of checkpoints. Over several processes each gathers what the others predicted
    in the step, so that all hold the same memory as one process would: a row may come to another process next epoch.
    """

    robust = True

    def __init__(self, config: Elr) -> None:
        self._config = config
        self._memory: Tensor | None = None
        self._size = 0

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """``row``, the place in the table."""
        self._size = max(self._size, table.height)
        return {"row": np.arange(table.height, dtype=np.int64)}

    def rows(self, logits: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """Remembers the batch's predictions, then costs it."""
        # As in the authors' code: a certain prediction would make 1 - <p, m> zero.
        probs = logits.detach().float().softmax(dim=-1).clamp(1e-4, 1.0 - 1e-4)
        probs = probs / probs.sum(dim=-1, keepdim=True)
        memory = torch.zeros(self._size, logits.shape[-1]) if self._memory is None else self._memory
        self._memory = memory = memory.to(logits.device)
        kept = self._config.momentum
        real = columns["weight"] > 0
        for row, predicted in gathered(columns["row"][real], probs[real]):
            memory[row] = kept * memory[row] + (1.0 - kept) * predicted
        remembered = memory[columns["row"]]
        return noise_losses.early_learning_rows(logits, columns["target"], remembered, strength=self._config.strength)

    def state_dict(self) -> dict[str, Any]:
        """The memory."""
        return {} if self._memory is None else {"memory": self._memory.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The memory."""
        self._memory = state["memory"].clone() if "memory" in state else None


class ForwardCorrectionRule(LossRule):
    """Forward correction, with the confusions of each row's source; a source without any is taken at its word."""

    robust = True

    def __init__(self, config: ForwardCorrection, *, labels: int) -> None:
        if config.matrices is None:
            raise StudentError(
                "forward_correction: no confusion matrices; fit_student estimates them, or give loss.matrices"
            )
        self._sources = {source: number for number, source in enumerate(config.matrices)}
        self._confusions = torch.tensor([*config.matrices.values(), np.eye(labels).tolist()], dtype=torch.float32)

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """``source``, which matrix is the row's."""
        none = len(self._sources)
        return {"source": np.array([self._sources.get(name, none) for name in table["source"]], dtype=np.int64)}

    def rows(self, logits: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """See :func:`distill.students.losses.noise.corrected_cross_entropy_rows`."""
        self._confusions = self._confusions.to(logits.device)
        return noise_losses.corrected_cross_entropy_rows(logits, columns["target"], self._confusions[columns["source"]])


class PairRule(LossRule):
    """A loss between the rows of a query, beside soft cross-entropy on each.

    Batches hold all of a query's rows of the step in one process (see
    :class:`distill.students.training.grouped_batches.GroupedBatches`), so that several processes cost what one would.
    """

    def __init__(self, config: MarginMse | Listwise, *, grade: np.ndarray) -> None:
        self._config = config
        self._grade = torch.from_numpy(grade.astype(np.float32))
        self.rows_together = config.rows_together

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """``group``, the query as a number."""
        _, codes = np.unique(table["group"].to_numpy(), return_inverse=True)
        return {"group": codes.astype(np.int64)}

    def rows(self, logits: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """``pointwise * soft cross-entropy + strength * pair loss``."""
        config, target = self._config, columns["target"]
        grade = self._grade.to(logits.device)
        given, wanted = logits.float().softmax(dim=-1) @ grade, target.float() @ grade
        if isinstance(config, Listwise):
            pairs = pair_losses.listwise_rows(given, wanted, columns["group"], columns["weight"], scale=config.scale)
        else:
            pairs = pair_losses.margin_mse_rows(given, wanted, columns["group"], columns["weight"])
        return config.pointwise * losses.soft_cross_entropy_rows(logits, target) + config.strength * pairs


def loss_rule(config: AnyLoss, *, task: Task) -> LossRule:
    """The rule of a recipe's ``loss``.

    Raises:
        StudentError: It lacks a matrix, or the matrix does not fit the task.
    """
    match config:
        case Elr():
            return EarlyLearningRule(config)
        case ForwardCorrection():
            return ForwardCorrectionRule(config, labels=len(task.labels))
        case MarginMse() | Listwise():
            return PairRule(config, grade=grades(task))
        case Gce():
            return RowRule(partial(noise_losses.generalised_cross_entropy_rows, q=config.q), robust=True)
        case Sce():
            symmetric = partial(
                noise_losses.symmetric_cross_entropy_rows,
                alpha=config.alpha,
                beta=config.beta,
                log_zero=config.log_zero,
            )
            return RowRule(symmetric, robust=True)
    return RowRule(_row_loss(config))


def _row_loss(config: AnyLoss) -> losses.RowLoss:
    match config:
        case SoftCe():
            return partial(losses.soft_cross_entropy_rows, temperature=config.temperature)
        case HardCe():
            return losses.hard_cross_entropy_rows
        case ForwardKl():
            return partial(losses.forward_kl_rows, temperature=config.temperature)
        case ReverseKl():
            return partial(losses.reverse_kl_rows, temperature=config.temperature)
        case Jsd():
            return partial(losses.jsd_rows, beta=config.beta, temperature=config.temperature)
        case Rps():
            return losses.rps_rows
        case Emd():
            return partial(losses.emd_rows, power=config.power)
    raise StudentError(f"loss: {config!r} is no loss of single rows")


def gathered(*parts: Tensor) -> list[tuple[Tensor, ...]]:
    """The tensors of every process, in their order; only its own where there is one process.

    Every process must call it as often as the others; parts may differ in length.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return [parts]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, tuple(part.cpu() for part in parts))
    return [tuple(part.to(own.device) for part, own in zip(other, parts, strict=True)) for other in found]


def small_loss_kept(row_losses: Tensor, weak: Tensor, *, drop: float) -> Tensor:
    """Which rows of a step stay: all but the ``floor(drop * n)`` of greatest loss among the ``n`` weak ones.

    Over several processes the rows of all are ranked together, so that the same stay as in one. Of equal losses at the
    border all stay.

    Args:
        row_losses: ``[B]``.
        weak: ``[B]`` bool: rows that may be left out.
        drop: Share of them.

    Returns:
        ``[B]`` float, 1 for a row that stays.
    """
    own = row_losses.detach().float()
    ranked = torch.cat([part for (part,) in gathered(own[weak])]).sort().values
    left_out = int(drop * len(ranked))
    if left_out == 0:
        return torch.ones_like(own)
    return (~weak | (own <= ranked[-left_out - 1])).float()
