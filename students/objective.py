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

from distill.students.losses import loss_of
from distill.students.network import Example, Network

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.students.config import StudentConfig


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
        facts: What was counted while the rows were read, for the student's file and the run; nothing for most.
    """

    epoch: int = 0
    facts: Mapping[str, int] = MappingProxyType({})

    def read(self, network: Network, table: pl.DataFrame) -> Sequence[Example]:
        """Examples of a table of :class:`distill.students.training_set.TrainingSet`, as the network collates them."""
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

    def state_dict(self) -> dict[str, Any]:
        """State to go on from; nothing for most."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have nothing to take up
        """Takes up what :meth:`state_dict` gave."""


class LabelObjective(Objective):
    """The loss that the recipe names, between the network's scores and the rows' target distributions."""

    def __init__(self, config: StudentConfig) -> None:
        self._config = config

    def columns(self, table: pl.DataFrame) -> dict[str, np.ndarray]:
        """``target`` and ``weight``."""
        return target_columns(table)

    def loss(
        self, network: Network, model: nn.Module, batch: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> StepLoss:
        """See :mod:`distill.students.losses`."""
        logits = network.forward(model, batch).logits
        return StepLoss(loss_of(self._config.loss, logits, columns["target"], weight=columns["weight"]), logits)


def target_columns(table: pl.DataFrame) -> dict[str, np.ndarray]:
    """``target`` ``[N, K]`` and ``weight`` ``[N]`` of a table, both float32."""
    target = np.array(table["target"].to_list(), dtype=np.float32)
    return {"target": target, "weight": table["weight"].to_numpy().astype(np.float32)}


def objective_for(config: StudentConfig) -> Objective:
    """The objective of a student's section."""
    if config.type == "causal":
        from distill.students.causal_objective import CausalObjective

        if config.teacher_logprobs is not None:
            from distill.students.causal_teacher import TaughtObjective

            return TaughtObjective(config, config.teacher_logprobs, LabelObjective(config))
        return CausalObjective(config, LabelObjective(config))
    return LabelObjective(config)
