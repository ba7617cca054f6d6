"""What a step of a training minimises: which numbers of each row it needs, and the loss of a batch.

The Trainer knows none of it: it asks the objective for the examples, collates them with the network, and hands each
batch back. An objective may hold state (a running average of predictions, say); the state is saved in checkpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from distill.labeling.task import Task
from distill.students.config import HUMAN, EncoderConfig
from distill.students.losses.distributions import mean_over_rows, soft_cross_entropy_rows
from distill.students.network import Example, Network

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.students.config import StudentConfig
    from distill.students.training_set import TrainingSet


class StepLoss(NamedTuple):
    """What a batch cost.

    Attributes:
        loss: Scalar with a gradient, normalised by the batch's rows.
        logits: ``[B, K]`` scores of the labels, as they are validated on.
    """

    loss: Tensor
    logits: Tensor


class Objective(ABC):
    """What is minimised.

    Attributes:
        epoch: Of the training, from 0; set by the Trainer before each.
        rows_together: Rows of a group that batches keep together, by a column ``group``; 1 for any order.
        columns_need_texts: Whether :meth:`columns` looks at the inputs or the trace; where not, they are left out of
            its table, so that the texts of a million rows are never in memory.
        reads_tokens_of_network: Whether a :meth:`read` of its own gives no token but those that the network reads.
        looks_at_all_rows: Whether :meth:`start` wants the training's rows, texts and all, in memory.
        facts: What :meth:`columns` counted in the training rows, for the student's file and the run; nothing for most.
    """

    epoch: int = 0
    rows_together: int = 1
    columns_need_texts: bool = True
    reads_tokens_of_network: bool = False
    looks_at_all_rows: bool = False
    facts: Mapping[str, int] = MappingProxyType({})

    def start(self, network: Network, training: TrainingSet) -> None:  # noqa: B027 - most need nothing
        """Looks at the whole training before anything is read, and puts on the network what the objective needs.

        Called where :attr:`looks_at_all_rows` says so.
        """

    def finish(self, network: Network) -> None:  # noqa: B027 - most put nothing on
        """Takes off again what only helped to learn; after the last step, before the student is saved."""

    def read(self, network: Network, table: pl.DataFrame) -> Sequence[Example]:
        """Examples of a table of :class:`distill.students.training_set.TrainingSet`, as the network collates them.

        It is called with one stretch of the rows after the other, and gives one example a row, whatever the others are.
        """
        return network.read(table)

    @abstractmethod
    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """Numbers that go with each row's example, ``[N, ...]``; batches carry them as tensors by the same name.

        ``target`` ``[N, K]`` and ``weight`` ``[N]``, both float32, are always among them: validation needs them.
        """

    @abstractmethod
    def loss(
        self, network: Network, model: nn.Module, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> StepLoss:
        """Costs a batch.

        Args:
            network: Knows how to call the model.
            model: Its model, in a distributed wrapper maybe.
            batch: The model's inputs, from :meth:`Network.collate`.
            columns: From :meth:`columns`; rows that fill a batch up have weight 0.
        """

    def validation_loss(self, logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
        """Soft cross-entropy over all held-out rows, their weights normalised to sum to one.

        Args:
            logits: ``[N, K]`` float64, of :class:`StepLoss`.
            target: ``[N, K]``.
            weight: ``[N]``.
        """
        shifted = logits - logits.max(axis=-1, keepdims=True)
        log_probs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        per_row = -(target * log_probs).sum(axis=-1)
        return float((weight * per_row).sum() / weight.sum())

    def state_dict(self) -> dict[str, Any]:
        """State to go on from; nothing for most."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have nothing to take up
        """Takes up what :meth:`state_dict` gave."""


class LabelObjective(Objective):
    """The loss that the recipe names, between the network's scores and the rows' target distributions.

    Rows of source ``human`` are learned by soft cross-entropy where the loss is one that expects wrong labels, and are
    never left out by ``small_loss``. Outside training every loss is soft cross-entropy, and nothing is remembered.

    Args:
        config: The student's section.
        task: For losses that need the labels' number or order.

    Raises:
        StudentError: The loss lacks what it needs.
    """

    columns_need_texts = False

    def __init__(self, config: StudentConfig, *, task: Task) -> None:
        from distill.students.losses.rules import loss_rule

        self._rule = loss_rule(config.loss, task=task)
        self._small_loss = config.loss.small_loss
        self._spares_humans = self._rule.robust or self._small_loss is not None
        self.rows_together = self._rule.rows_together

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """``target`` and ``weight``, and what the loss needs: ``human``, ``row``, ``source`` or ``group``."""
        found = target_columns(table) | self._rule.columns(table)
        if self._spares_humans:
            found["human"] = (table["source"] == HUMAN).to_numpy()
        return found

    def loss(
        self, network: Network, model: nn.Module, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> StepLoss:
        """See :mod:`distill.students.losses.distributions`."""
        logits = network.forward(model, batch).logits
        return StepLoss(self.cost(logits, columns, training=model.training), logits)

    def cost(self, logits: Tensor, columns: Mapping[str, Tensor], *, training: bool) -> Tensor:
        """The loss of logits that are there already, for objectives that add to it; as :meth:`loss`."""
        weight = columns["weight"]
        if not training:
            return mean_over_rows(soft_cross_entropy_rows(logits, columns["target"]), weight)
        rows = self._rule.rows(logits, columns)
        if self._rule.robust:
            rows = rows.where(~columns["human"], soft_cross_entropy_rows(logits, columns["target"]))
        if self._small_loss is not None:
            from distill.students.losses.rules import small_loss_kept

            drop = self._small_loss.drop * min(self.epoch / self._small_loss.ramp_epochs, 1.0)
            weight = weight * small_loss_kept(rows, ~columns["human"] & (weight > 0), drop=drop)
        return mean_over_rows(rows, weight)

    def state_dict(self) -> dict[str, Any]:
        """What the loss remembers of the rows, if it is one that does."""
        return self._rule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the memory up."""
        self._rule.load_state_dict(state)


def count_known_parts(target: np.ndarray, names: Sequence[str], facts: dict[str, int]) -> None:
    """Adds to ``facts`` of how many rows each part is known; ``target`` ``[N, parts]`` is 0 where one is not."""
    for place, name in enumerate(names):
        known = int((target[:, place] > 0).sum()) if len(target) else 0
        facts[f"rows_{name}"] = facts.get(f"rows_{name}", 0) + known


def target_columns(table: pl.DataFrame) -> dict[str, np.ndarray]:
    """``target`` ``[N, K]`` and ``weight`` ``[N]`` of a table, both float32."""
    labels = len(table["target"][0]) if table.height else 0
    target = table["target"].explode().to_numpy().reshape(table.height, labels).astype(np.float32)
    return {"target": target, "weight": table["weight"].to_numpy().astype(np.float32)}


def objective_for(config: StudentConfig, *, task: Task) -> Objective:
    """The objective of a student's section.

    Raises:
        StudentError: The loss lacks what it needs.
    """
    if isinstance(config, EncoderConfig) and not task.closed:
        from distill.students.queries.objective import QueryObjective

        return QueryObjective(config, task=task)
    if config.type == "causal" and not task.closed:
        from distill.students.causal.answers import CausalAnswerObjective

        return CausalAnswerObjective(task)
    label = LabelObjective(config, task=task)
    if config.type == "causal":
        from distill.students.causal.objective import CausalObjective

        if config.teacher_logprobs is not None:
            from distill.students.causal.teacher import TaughtObjective

            return TaughtObjective(config, config.teacher_logprobs, label, task=task)
        return CausalObjective(config, label, task=task)
    if isinstance(config, EncoderConfig) and config.traces is not None:
        from distill.students.traces.objective import TraceObjective

        return TraceObjective(label, config.traces)
    return label
